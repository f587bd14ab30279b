"""Before a run exists: its directory, its owner, its plan, and the state that it starts from."""
