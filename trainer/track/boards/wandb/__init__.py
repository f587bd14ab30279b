"""A run in wandb, which never ends the run: settings, its service, its log."""
