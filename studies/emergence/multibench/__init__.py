"""The MultiBench table: encoders by modality and depth, correlations by pair."""
