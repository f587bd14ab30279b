"""Corpora that the field knows by name: where they come from, and how they are made."""
