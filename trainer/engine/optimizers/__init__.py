"""The rules of an update, and the learning rate."""
