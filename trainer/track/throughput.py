"""Tokens per second, with one meaning in all records, tables and files of a run."""

#: The meaning of `throughput/tokens_per_s` and of a report's tok/s. In a record it covers the steps
#: since the previous record; in `status.json` it covers all steps of all attempts.
TRAINING = "tokens trained on over all ranks per second spent in steps"
#: The meaning of an evaluation's `tokens_per_s`.
SCORING = "tokens counted over all ranks per second of scoring, reading ahead of rows included"
#: The meaning of `throughput/mfu`.
MFU = "share of a device's peak that the operations of its tokens take, which the model needs"


def rates(
    n_tokens: int, seconds: float, *, n_devices: int, peak_tokens_per_s: float | None = None
) -> dict[str, float]:
    """Return the metrics of steps that took `seconds`, over all ranks and per device.

    Each rank has one device; a rank on CPUs counts as one.

    Args:
        n_tokens: tokens trained on over all ranks.
        seconds: the time of the steps.
        n_devices: the number of ranks.
        peak_tokens_per_s: tokens whose operations a device at its peak does in a second; None is
            not known, and there is no `throughput/mfu`.
    """
    rate = tokens_per_s(n_tokens, seconds)
    per_device = rate / n_devices
    told = {"throughput/tokens_per_s": rate, "throughput/tokens_per_s_per_device": per_device}
    if peak_tokens_per_s is not None:
        told["throughput/mfu"] = per_device / peak_tokens_per_s
    return told


def tokens_per_s(n_tokens: int, seconds: float) -> float:
    """Return the tokens over all ranks per second; no time at all counts as a nanosecond."""
    return n_tokens / max(1e-9, seconds)
