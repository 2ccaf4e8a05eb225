"""Extraction: encoders run over views, chunk by chunk, into the store."""
