"""Gradients from the backward pass to the update: whole at stage 0, under ZeRO at 1 to 3."""
