"""Trying what a run on these ranks would need, without training: `txl doctor`."""
