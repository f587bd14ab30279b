"""Transformer-XL in plain operations; `cpu` and `triton` compute it faster on their devices."""
