"""What the tables of encoders trained apart answer: maxima, correlations, laws, claims."""
