"""Amounts as people are told them."""

import math


def counted(count: int, noun: str) -> str:
    """A number of things: 1 rank, 2 ranks, 1,000 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def human_count(count: float) -> str:
    """Three digits and a unit: 950, 5.3k, 412k, 1.74M."""
    if not math.isfinite(count):
        return str(count)
    if abs(count) < 999.5:
        return f"{count:.3g}"
    for unit in "kMGT":
        count /= 1000
        if abs(count) < 999.5 or unit == "T":
            break
    return f"{count:.3g}{unit}"


def human_seconds(seconds: float) -> str:
    """The two largest units: 45s, 12m30s, 3h12m, 2d04h."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{hours}h{m:02d}m"
    return f"{minutes}m{s:02d}s" if minutes else f"{s}s"
