"""The text that tests train on: small stories, made here, so that every machine has the same.

A story has a cast of few names, out of many, that it keeps to: who read its beginning knows whom
the next lines will speak of. That is what memory can learn from so little text.
"""

import hashlib
from collections.abc import Sequence

SYLLABLES = ("ba", "den", "fi", "gor", "hul", "ka", "lem", "mo", "nis", "pur", "ra", "sil", "tov")
N_WORDS = {"name": 400, "verb": 200, "adjective": 500, "noun": 900, "place": 300}
LINES = (
    "{name} {verb} the {adjective} {noun} near {place} ,",
    "and {name} , who had {verb} the {noun} of {name} , went to {place} .",
    "then {name} {verb} {name} .",
    "the {noun} was {adjective} , said {name} ;",
    "",
)


class Draws:
    """Numbers that only a seed decides: no version of Python or of a library changes them."""

    def __init__(self, seed: str) -> None:
        self._seed, self._n_drawn = seed, 0

    def fraction(self) -> float:
        """Draw a number from 0 up to 1."""
        self._n_drawn += 1
        digest = hashlib.sha256(f"{self._seed}/{self._n_drawn}".encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48

    def choice(self, items: Sequence[str]) -> str:
        """Draw one, the first more often than the last, as words are in a language."""
        return items[int(len(items) * self.fraction() ** 1.5)]


def made_words(kind: str) -> list[str]:
    """Make up the words of a kind, all different."""
    draws, words = Draws(kind), dict.fromkeys([kind])
    while len(words) < N_WORDS[kind]:
        parts = [SYLLABLES[int(len(SYLLABLES) * draws.fraction())] for _ in range(3)]
        words["".join(parts).capitalize() if kind == "name" else "".join(parts)] = None
    return list(words)


def made_text(title: str, *, n_lines: int) -> str:
    """Tell a story of `n_lines` lines; another title is another story."""
    draws, words = Draws(title), {kind: made_words(kind) for kind in N_WORDS}
    cast = [words["name"][int(N_WORDS["name"] * draws.fraction())] for _ in range(4)]
    lines = [f"= {title} =", ""]
    for _ in range(n_lines):
        line = LINES[int(len(LINES) * draws.fraction())]
        for kind in N_WORDS:
            for _ in range(line.count(f"{{{kind}}}")):
                word = draws.choice(cast if kind == "name" else words[kind])
                line = line.replace(f"{{{kind}}}", word, 1)
        lines.append(line)
    return "\n".join(lines) + "\n"
