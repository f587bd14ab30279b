"""The command lines of training, planning and checking, read into settings."""
