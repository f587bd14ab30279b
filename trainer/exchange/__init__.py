"""Importing models of other trainers, and exporting ours for use elsewhere."""
