"""Which rows are nearest to which? Exact graphs, queries against a streamed gallery, approximate ones on request."""
