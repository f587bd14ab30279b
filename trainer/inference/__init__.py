"""Trained models without an engine: scored, evaluated, sampled."""
