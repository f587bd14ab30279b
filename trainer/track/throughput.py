"""Tokens per second, as every record, table and file of a run means it."""

#: What `throughput/tokens_per_s` and a report's tok/s are: of the steps since the record before
#: in a record, of all steps of all attempts in `status.json`.
TRAINING = "tokens trained on over all ranks per second spent in steps"
#: What an evaluation's `tokens_per_s` is.
SCORING = "tokens counted over all ranks per second of scoring, reading ahead of rows included"


def tokens_per_s(n_tokens: int, seconds: float) -> float:
    """Tokens over all ranks per second; of no time at all, as if of a nanosecond."""
    return n_tokens / max(1e-9, seconds)
