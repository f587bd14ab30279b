"""The command ``txl``, and how a process of it begins and ends."""
