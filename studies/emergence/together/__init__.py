"""Encoders of two synthetic modalities trained together: what contrast helps, harms and keeps."""
