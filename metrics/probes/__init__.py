"""Probes of a space by labels: classifiers fitted on training rows, linear maps, and the accuracy on test rows."""
