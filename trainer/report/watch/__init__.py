"""Watching a run while it trains: its curve, speed, events and heartbeat, again and again."""
