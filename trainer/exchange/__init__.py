"""Models of other trainers brought in, and ours written for use elsewhere."""
