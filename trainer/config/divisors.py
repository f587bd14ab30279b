"""Divisors of a size, for messages about a batch that cannot be divided evenly."""

import math

#: The most numbers tried, which bounds the time for a huge number, and the most divisors listed.
_TRIED, _TOLD = 1 << 17, 12


def divisors(number: int) -> list[int]:
    """Return the divisors of `number`, ascending; above 2^34 only those that are found fast."""
    tried = range(1, min(math.isqrt(number), _TRIED) + 1)
    small = [n for n in tried if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def divisors_near(number: int, wanted: int) -> str:
    """Return the divisors of `number` in words; of many, those nearest to `wanted`."""
    found = sorted(divisors(number), key=lambda n: abs(math.log(n / max(1, wanted))))[:_TOLD]
    *most, last = map(str, sorted(found))
    return f"{', '.join(most)} or {last}" if most else last
