"""The experiment, the DeepSpeed file and the training command line: what is trained, and how."""
