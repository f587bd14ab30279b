"""A random order of any number of things that is computed place by place, and stored nowhere.

The order is a Feistel network (Luby and Rackoff 1988) whose round function is MurmurHash3's
finalizer (Appleby) under a key of its own. It permutes the numbers of just enough bits; a result
that is no thing's number goes through again until it is one, which keeps the order a permutation:
"cycle walking" in Black and Rogaway, Ciphers with Arbitrary Finite Domains (CT-RSA 2002).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint32]

#: So many that every order of six things comes about equally often.
_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class Shuffle:
    """An order of the numbers from 0 to `n` - 1, drawn from `seeds`.

    Args:
        n: at most 2^62.
        seeds: two orders of equal seeds are the same, on every machine.
    """

    n: int
    seeds: tuple[int, ...]
    _keys: _Words = field(init=False, repr=False)
    _low_bits: int = field(init=False, repr=False)
    _masks: tuple[np.uint32, np.uint32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Draw a key for each round, and cut the numbers' bits in two halves."""
        n_bits = (self.n - 1).bit_length()
        high_bits, low_bits = n_bits // 2, n_bits - n_bits // 2
        masks = np.uint32((1 << high_bits) - 1), np.uint32((1 << low_bits) - 1)
        keys = np.random.SeedSequence(self.seeds).generate_state(_ROUNDS, np.uint32)
        object.__setattr__(self, "_keys", keys)
        object.__setattr__(self, "_low_bits", low_bits)
        object.__setattr__(self, "_masks", masks)

    def __call__(self, places: Ints) -> Ints:
        """Return the numbers at some places of the order, `[N]`."""
        numbers = self._walked(places)
        while (outside := np.flatnonzero(numbers >= self.n)).size:
            numbers[outside] = self._walked(numbers[outside])
        return numbers

    def _walked(self, numbers: Ints) -> Ints:
        high_mask, low_mask = self._masks
        high, low = (numbers >> self._low_bits).astype(np.uint32), numbers.astype(np.uint32)
        low &= low_mask
        for key, next_key in zip(self._keys[::2], self._keys[1::2], strict=True):
            high ^= _mixed(low, key) & high_mask
            low ^= _mixed(high, next_key) & low_mask
        return (high.astype(np.int64) << self._low_bits) | low


def _mixed(words: _Words, key: np.uint32) -> _Words:
    mixed = words + key
    mixed ^= mixed >> 16
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> 13
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> 16
    return mixed
