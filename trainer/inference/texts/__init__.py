"""Scoring and reading texts that are in no corpus."""
