"""The record of a run, `metrics.jsonl`: its lines, what they mean, and events as sentences."""
