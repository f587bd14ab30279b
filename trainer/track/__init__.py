"""What a run tells: records, console, wandb, status and reports, and what a number is of."""
