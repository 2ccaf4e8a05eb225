"""Whether two modalities should be aligned: usable information of cached features, and one answer a use."""
