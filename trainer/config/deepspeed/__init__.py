"""The DeepSpeed file: found, checked, and resolved beside an experiment."""
