"""A passage of text, and what memory bought at each of its words."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.vocabulary.files import VOCABULARY_FILE, Vocabulary, load_vocabulary
from trainer.errors import InputError
from trainer.report.memory import Bought

#: Tokens of a passage.
N_TOKENS = 320
#: Stands for a token that is a line end.
LINE_END = "↵"


class Word(NamedTuple):
    """A word and the white space after it."""

    text: str
    after: str
    gain: float
    """Nats that memory bought, over all tokens of the word."""
    without: float
    """Nats without memory."""


class Passage(NamedTuple):
    """The stretch of a text in which memory bought the most."""

    begin: int
    """Position of its first token in the split."""
    words: list[Word]
    strong: float
    """A gain that only a few of the words exceed."""


def passage(run_dir: Path, bought: Bought) -> Passage:
    """Return the passage of `N_TOKENS` neighbouring tokens in which memory bought the most.

    Raises:
        InputError: the run's vocabulary is missing, or is not the one of the evaluation.
    """
    vocabulary = load_vocabulary(run_dir / VOCABULARY_FILE)
    if bought.result.vocabulary_hash not in (None, vocabulary.hash):
        raise InputError(f"{run_dir / VOCABULARY_FILE} is not the vocabulary of the evaluation")
    token = np.asarray(bought.tokens["token"])
    if int(token.max()) >= vocabulary.size:
        raise InputError(f"{run_dir / VOCABULARY_FILE} lacks ids of the evaluation")
    gains = bought.nats[0] - bought.nats[-1]
    n = min(N_TOKENS, len(gains))
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    begin = int(np.argmax(sums[n:] - sums[:-n]))
    part = slice(begin, begin + n)
    words = _words(
        pieces(vocabulary, token[part].tolist()),
        gains[part].tolist(),
        bought.nats[0][part].tolist(),
    )
    strong = float(np.quantile([abs(word.gain) for word in words], 0.95)) if words else 0.0
    return Passage(int(bought.tokens["position"][begin]), words, strong)


def pieces(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds to that of the tokens before it.

    A character that several tokens make up together comes with the last of them.
    """
    found: list[str] = []
    text = ""
    for end in range(1, len(ids) + 1):
        longer = vocabulary.decode(ids[:end])
        if end < len(ids) and longer.endswith("\ufffd"):  # a part of a character
            found.append("")
            continue
        found.append(longer[len(text) :] if longer.startswith(text) else "")
        text = longer
    return found


def _words(texts: Sequence[str], gains: Sequence[float], without: Sequence[float]) -> list[Word]:
    """Return the words that tokens make up; a word ends before white space, and so does a line."""
    words: list[Word] = []
    for text, gain, nats in zip(texts, gains, without, strict=True):
        bare = text.strip()
        lead = text[: len(text) - len(text.lstrip())] if bare else text
        after = text[len(text.rstrip()) :] if bare else ""
        if not bare and "\n" in text:
            words.append(Word(LINE_END, text, gain, nats))
            continue
        begins = not words or words[-1].after or lead
        if words and lead:
            words[-1] = words[-1]._replace(after=words[-1].after + lead)
        if begins and (bare or not words):
            words.append(Word(bare, after, gain, nats))
        else:
            last = words[-1]
            words[-1] = Word(
                last.text + bare, last.after + after, last.gain + gain, last.without + nats
            )
    return words
