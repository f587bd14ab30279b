"""Scoring, evaluating and sampling trained models, without an engine."""
