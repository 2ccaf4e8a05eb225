"""Questions asked of cached features: alignment of encoders, and what trained adapters show."""
