"""Texts that a plan takes for granted where there is no corpus."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from trainer.budget.sizes import Words
from trainer.config.model_settings import ModelConfig

#: Up to this rank a word's share falls as 1/r, beyond it faster, by the second number (Gerlach and
#: Altmann 2013, for English). The numbers are those that give WikiText-103 its share of rare words.
_RARE_RANK, _RARE_POWER = 7_740, 1.698


class Text(NamedTuple):
    """Sizes of a text."""

    vocabulary_size: int
    n_tokens: int | None
    """Tokens of the train split; None if nobody says."""


def text_of(recipe: str) -> Text | None:
    """Return the sizes of the text that a packaged recipe is for; None for any other recipe."""
    known = {
        "wt103": Text(267_735, 103_227_021),
        "enwik8": Text(204, 90_000_000),
        "text8": Text(27, 90_000_000),
        "quickstart": Text(4_096, None),
    }
    return known.get(recipe.partition("-")[0])


def usual_words(model: ModelConfig, vocabulary_size: int) -> Words:
    """Return a vocabulary whose words are as frequent as those of English, the frequent ones first.

    The cutoffs must be below its size.
    """
    ranks = np.arange(1, vocabulary_size + 1, dtype=np.float64)
    weights = 1 / (ranks * np.maximum(1, ranks / _RARE_RANK) ** (_RARE_POWER - 1))
    bounds = pairwise((0, *model.cutoffs, vocabulary_size))
    _, *tails = (float(weights[low:high].sum() / weights.sum()) for low, high in bounds)
    return Words(vocabulary_size, (1.0, *tails))
