"""DeepSpeed files, read by name through `trainer.config.deepspeed`; see README.md."""
