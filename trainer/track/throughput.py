"""Tokens per second, with one meaning in all records, tables and files of a run."""

#: The meaning of `throughput/tokens_per_s` and of a report's tok/s. In a record it covers the steps
#: since the previous record; in `status.json` it covers all steps of all attempts.
TRAINING = "tokens trained on over all ranks per second spent in steps"
#: The meaning of an evaluation's `tokens_per_s`.
SCORING = "tokens counted over all ranks per second of scoring, reading ahead of rows included"


def rates(n_tokens: int, seconds: float, *, n_devices: int) -> dict[str, float]:
    """Return the metrics of steps that took `seconds`, over all ranks and per device.

    Each rank has one device; a rank on CPUs counts as one.
    """
    rate = tokens_per_s(n_tokens, seconds)
    return {
        "throughput/tokens_per_s": rate,
        "throughput/tokens_per_s_per_device": rate / n_devices,
    }


def tokens_per_s(n_tokens: int, seconds: float) -> float:
    """Return the tokens over all ranks per second; no time at all counts as a nanosecond."""
    return n_tokens / max(1e-9, seconds)
