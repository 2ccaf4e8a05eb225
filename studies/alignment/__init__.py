"""Alignment of cached encoders: scores, layer grids, curves and ceilings."""
