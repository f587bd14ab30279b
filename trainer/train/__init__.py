"""From a plan to a trained run: claimed, begun, stepped, saved, stopped and resumed."""
