"""Options of reading that improves as it reads, of `txl eval` and `txl generate`.

Neither torch nor deepspeed is imported: the command line is read before a command is known to need
them.
"""

import math
from dataclasses import dataclass

from trainer.errors import InputError
from trainer.track.method import Cache, Dynamic, Method, Rule


@dataclass(frozen=True, kw_only=True)
class ImprovingOptions:
    """A continuous cache, dynamic evaluation, or both; see trainer/inference/improving."""

    cache: int | None = None
    """predict also from a cache of so many hidden states and the words after them"""
    cache_weight: float | None = None
    """share of the cache in a probability; None is tuned on valid"""
    cache_flatness: float | None = None
    """factor of the products of states in the cache; None is tuned on valid"""
    dynamic: Rule | None = None
    """learn each segment once it is scored, by sgd or by rms with the run's second moments"""
    dynamic_rate: float | None = None
    """learning rate of the mean nats of a segment; None is tuned on valid"""
    dynamic_decay: float | None = None
    """share of the way back to the trained weights at each step; None is tuned on valid"""

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings without what they set.

        Raises:
            InputError: lists them.
        """
        if problems := [text for text, holds in self._conditions().items() if not holds]:
            raise InputError("; ".join(problems))

    def _conditions(self) -> dict[str, bool]:
        of_cache, of_dynamic = self._given("cache_"), self._given("dynamic_")
        rate, decay = self.dynamic_rate, self.dynamic_decay
        weight, flatness = self.cache_weight, self.cache_flatness
        return {
            f"--cache {self.cache} is below 1": self.cache is None or self.cache >= 1,
            f"--cache-weight {weight} is not above 0 and below 1": weight is None or 0 < weight < 1,
            f"--cache-flatness {flatness} is not above 0": (
                flatness is None or 0 < flatness < math.inf
            ),
            f"--dynamic-rate {rate} is not above 0": rate is None or 0 < rate < math.inf,
            f"--dynamic-decay {decay} is not from 0 to 1": decay is None or 0 <= decay <= 1,
            "--cache-weight and --cache-flatness need --cache": bool(self.cache) or not of_cache,
            "--cache-weight and --cache-flatness: give both, or none": len(of_cache) != 1,
            "--dynamic-rate and --dynamic-decay need --dynamic": (
                self.dynamic is not None or not of_dynamic
            ),
            "--dynamic-rate and --dynamic-decay: give both, or none": len(of_dynamic) != 1,
        }

    def _given(self, prefix: str) -> list[str]:
        names = [name for name in ImprovingOptions.__dataclass_fields__ if name.startswith(prefix)]
        return [name for name in names if getattr(self, name) is not None]

    @property
    def improves(self) -> bool:
        """Return whether anything is asked for."""
        return self.cache is not None or self.dynamic is not None

    @property
    def lacks_settings(self) -> bool:
        """Return whether settings of what is asked for are to be found."""
        lacks_cache = self.cache is not None and self.cache_weight is None
        return lacks_cache or (self.dynamic is not None and self.dynamic_rate is None)

    @property
    def given(self) -> Method:
        """Return what is asked for and has its settings."""
        cache, dynamic = None, None
        if self.cache and self.cache_weight and self.cache_flatness:
            cache = Cache(states=self.cache, weight=self.cache_weight, flatness=self.cache_flatness)
        if self.dynamic and self.dynamic_rate and self.dynamic_decay is not None:
            dynamic = Dynamic(rule=self.dynamic, rate=self.dynamic_rate, decay=self.dynamic_decay)
        return Method(cache=cache, dynamic=dynamic)
