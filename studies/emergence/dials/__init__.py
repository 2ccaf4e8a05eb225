"""Real views of which one is spoilt by known doses: alignment, performance, correlations."""
