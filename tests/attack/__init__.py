"""Attacks on the real command line and library: kills, faults, malformed records, bombs, races (CONTRIBUTING.md)."""
