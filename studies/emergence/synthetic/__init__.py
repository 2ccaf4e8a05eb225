"""Encoders of two synthetic modalities trained apart: sizes, blocks, tables, and what is exact of them."""
