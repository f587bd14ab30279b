"""Methods of reading that improve as they read: what they are, and their settings.

A result of such a method is a measure of its own: plain reading never is compared with it.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, lt=1 << 62, strict=True)]
Hash = Annotated[str, Field(max_length=4096)]

Rule = Literal["sgd", "rms"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    tuned_on: Hash | None = Field(
        None, description="hash of the split on which the settings were tuned; None: were given"
    )

    def _key(self, what: tuple[object, ...], chosen: tuple[object, ...]) -> tuple[object, ...]:
        """Return what a result depends on besides the weights: tuning finds what it finds."""
        return (*what, *chosen) if self.tuned_on is None else (*what, "tuned on", self.tuned_on)


class Cache(_Settings):
    """A continuous cache (Grave et al. 2017): the words after states like the present one."""

    states: Count = Field(description="the newest states that are kept, of each row")
    weight: float = Field(gt=0, lt=1, description="share of the cache in a probability (λ)")
    flatness: float = Field(gt=0, description="factor of the products of states (θ)")

    @property
    def key(self) -> tuple[object, ...]:
        """Return all that a result depends on besides the weights."""
        return self._key(("cache", self.states), (self.weight, self.flatness))

    @property
    def manner(self) -> str:
        """Return the cache in one word for names of files and curves."""
        chosen = "tuned" if self.tuned_on else f"{self.weight:.3g}-{self.flatness:.3g}"
        return f"cache{self.states}-{chosen}"

    def __str__(self) -> str:
        tuned = ", tuned" if self.tuned_on else ""
        chosen = f"weight {self.weight:.3g}, flatness {self.flatness:.3g}{tuned}"
        return f"cache {self.states} ({chosen})"


class Dynamic(_Settings):
    """Dynamic evaluation (Krause et al. 2018, 2019): a step on each segment after it is scored."""

    rule: Rule = Field(description="sgd, or rms: gradients over the root of second moments")
    rate: float = Field(gt=0, description="learning rate of the mean nats of a whole segment (η)")
    decay: float = Field(ge=0, le=1, description="share of the way back to the trained weights (λ)")

    @property
    def key(self) -> tuple[object, ...]:
        """Return all that a result depends on besides the weights."""
        return self._key(("dynamic", self.rule), (self.rate, self.decay))

    @property
    def manner(self) -> str:
        """Return the rule in one word for names of files and curves."""
        return f"{self.rule}-{'tuned' if self.tuned_on else f'{self.rate:.3g}-{self.decay:.3g}'}"

    def __str__(self) -> str:
        tuned = ", tuned" if self.tuned_on else ""
        return f"dynamic {self.rule} (rate {self.rate:.3g}, decay {self.decay:.3g}{tuned})"


class Method(BaseModel):
    """A method of reading that improves as it reads: a cache, dynamic evaluation, or both."""

    model_config = ConfigDict(frozen=True, strict=True)

    cache: Cache | None = None
    dynamic: Dynamic | None = None

    @property
    def parts(self) -> tuple[Cache | Dynamic, ...]:
        """Return what it consists of."""
        return tuple(part for part in (self.cache, self.dynamic) if part is not None)

    @property
    def key(self) -> tuple[object, ...]:
        """Return all that a result depends on besides the weights."""
        return tuple(part.key for part in self.parts)

    @property
    def manner(self) -> str:
        """Return the method in one word for names of files and curves."""
        return "-".join(part.manner for part in self.parts)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))
