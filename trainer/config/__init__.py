"""What is trained, and how: the experiment, the DeepSpeed file and the training command line."""
