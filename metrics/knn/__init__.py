"""Nearest neighbours: exact graphs, queries against a streamed gallery, approximate indexes on request."""
