"""The figures of a scored text, from its mean nats per token and its counts."""

import math
from collections.abc import Collection
from typing import Protocol

from trainer.track.perplexity import perplexity


class Counted(Protocol):
    """A text's counts, as a `trainer.data.corpus.Split` has them."""

    @property
    def n_tokens(self) -> int:
        """Return the number of tokens, the first included."""
        ...

    @property
    def n_words(self) -> int:
        """Return the number of words, and of line ends unless no id stands for them."""
        ...

    @property
    def n_characters(self) -> int:
        """Return the number of characters, line ends included."""
        ...


def figures(loss: float, of: Counted, *, absent: Collection[str]) -> dict[str, float | None]:
    """Return loss, ppl, ppl_word and bpc of a text with a mean of `loss` nats per token.

    Those named in `absent` are None.
    """
    per_word = of.n_tokens / max(1, of.n_words)
    per_character = of.n_tokens / max(1, of.n_characters)
    values = {
        "loss": loss,
        "ppl": perplexity(loss),
        "ppl_word": perplexity(loss * per_word),
        "bpc": loss / math.log(2) * per_character,
    }
    return {name: None if name in absent else values[name] for name in values}
