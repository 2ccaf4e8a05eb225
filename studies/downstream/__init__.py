"""Downstream tasks of cached spaces: labels that a classifier reads off them, and pretrained heads fed with them."""
