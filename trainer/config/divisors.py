"""Sizes that divide another, for messages about a batch that does not split."""

import math

#: Numbers tried, and sizes told: an answer takes no longer for a huge number.
_TRIED, _TOLD = 1 << 17, 12


def divisors(number: int) -> list[int]:
    """List the divisors of `number`, ascending; above 2^34 only those that are found fast."""
    tried = range(1, min(math.isqrt(number), _TRIED) + 1)
    small = [n for n in tried if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def divisors_near(number: int, wanted: int) -> str:
    """A list in words of what divides `number`: of many, those nearest to `wanted`."""
    found = sorted(divisors(number), key=lambda n: abs(math.log(n / max(1, wanted))))[:_TOLD]
    *most, last = map(str, sorted(found))
    return f"{', '.join(most)} or {last}" if most else last
