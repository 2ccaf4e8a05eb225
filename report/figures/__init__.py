"""Figures: rows, words and a Vega-Lite drawing each, written as SVG, PNG and CSV."""
