"""Calls from Python: train, evaluate and generate in the process that calls."""
