"""Trained adapters: the run, its final table, its pictures and its embeddings."""
