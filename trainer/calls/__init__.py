"""What a call from Python does: train, evaluate and generate in the process that calls."""
