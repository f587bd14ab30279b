"""Checkpoints: all that changes during a run, written as a whole and verified before use."""
