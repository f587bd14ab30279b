"""The command ``txl``, and how its process begins and ends."""
