"""Curves of a run elsewhere: wandb, TensorBoard, trackio."""
