"""Results on the terminal: tables, progress and sentences."""
