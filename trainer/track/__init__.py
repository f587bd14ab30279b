"""A run's records, console, wandb, status and reports, and what its numbers measure."""
