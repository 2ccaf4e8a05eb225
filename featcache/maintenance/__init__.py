"""Verification, repair, garbage collection and diagnosis of a cache."""
