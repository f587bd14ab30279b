"""Tokens per second, with one meaning in all records, tables and files of a run."""

#: The meaning of `throughput/tokens_per_s` and of a report's tok/s. In a record it covers the steps
#: since the previous record; in `status.json` it covers all steps of all attempts.
TRAINING = "tokens trained on over all ranks per second spent in steps"
#: The meaning of an evaluation's `tokens_per_s`.
SCORING = "tokens counted over all ranks per second of scoring, reading ahead of rows included"


def tokens_per_s(n_tokens: int, seconds: float) -> float:
    """Return the tokens over all ranks per second; no time at all counts as a nanosecond."""
    return n_tokens / max(1e-9, seconds)
