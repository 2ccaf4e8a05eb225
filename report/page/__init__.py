"""The page: one self-contained HTML file of one or many runs."""
