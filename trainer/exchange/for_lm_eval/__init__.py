"""Trained models as models of EleutherAI's lm-evaluation-harness."""
