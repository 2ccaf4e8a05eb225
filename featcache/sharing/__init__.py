"""Transfer of arrays between caches."""
