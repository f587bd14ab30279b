"""Files of a run beside its record: status, results, losses of streams and of tokens."""
