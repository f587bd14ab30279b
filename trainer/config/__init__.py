"""The settings of a run: the experiment, the DeepSpeed file and the training command line."""
