"""The processes that a rank depends on: its launcher, and the other ranks."""
