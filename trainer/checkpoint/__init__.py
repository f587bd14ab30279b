"""All that changes during a run, written whole or not at all, and believed only when verified."""
