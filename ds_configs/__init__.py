"""DeepSpeed files, read by name through `trainer.ds_config`; see README.md."""
