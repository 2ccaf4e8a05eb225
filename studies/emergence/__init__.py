"""When alignment emerges, and when it predicts performance: encoders trained apart and together on known modalities."""
