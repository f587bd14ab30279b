"""The terminal of a run, and its logs."""
