"""Disturbances of trainings: kinds of them, the processes that they are done to, and a log."""
