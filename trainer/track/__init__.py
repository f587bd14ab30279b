"""Records, console, wandb, status and reports of a run, and the measures of its numbers."""
