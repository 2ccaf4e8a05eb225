"""Metrics of two spaces, one family a module."""
