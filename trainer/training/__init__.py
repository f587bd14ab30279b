"""Training, from a plan to a finished run: claim, start, steps, checkpoints, stop and resume."""
