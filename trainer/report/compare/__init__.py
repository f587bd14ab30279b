"""Comparing runs: what differs between them, and by how much their losses differ."""
