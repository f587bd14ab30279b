"""The text that each stream of a run read at a step."""
