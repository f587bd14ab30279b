"""What is trained and how: the experiment, the DeepSpeed file, the training command line."""
