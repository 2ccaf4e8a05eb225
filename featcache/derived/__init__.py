"""Arrays computed from cached features."""
