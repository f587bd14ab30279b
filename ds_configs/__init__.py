"""DeepSpeed files, read by name through `trainer.config.deepspeed.file`; see README.md."""
