"""Synthetic modalities with known redundancy, uniqueness and synergy: label tables and draws."""
