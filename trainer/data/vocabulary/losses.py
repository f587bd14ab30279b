"""Counting the characters of a text that a tokenizer loses, by decoding its ids.

A tokenizer is probed once. If every probe is decoded unchanged, the tokenizer is taken to lose
nothing. Otherwise every word and every run of white space is decoded the first time it occurs.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol

from trainer.data.text.pieces import Piece, count_line_ends
from trainer.data.vocabulary.protocol import Lost

_WORD_OR_BLANKS = re.compile(r"\s+|\S+")
#: How many words' losses are remembered, and the length of the longest of these words.
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 1 << 18, 64
_BATCH_WORDS = 1 << 14

#: Candidates for the letter around a word that is read back: the first that itself comes back.
_NEIGHBOURS = ("a", "e", "n", "0", "и", "α", "א", "ا", "क", "ก", "的", "の", "가", "A")

#: Spaces, line ends, and what normalizers and decoders like to change.
_PROBES = (
    "a b",
    "a  b",
    "a   b",
    " a",
    "  a",
    "a ",
    "a  ",
    " ",
    "\n",
    "a\nb",
    "a\n\nb",
    "a\n\n\nb",
    "\na",
    "a\n",
    "a\r\nb",
    "a\rb",
    "a\tb",
    "\ta",
    "a \n b",
    "a\n    b",
    "a\u00a0b",
    "a\u3000b",
    "a\u2028b",
    "don't",
    "do n't",
    "it 's",
    "a . b",
    "a , b ?",
    "(a) [b]",
    "x_y",
    "3.14",
    "1 000",
    "a--b",
    "##a",
    "▁a",
    "a▁b",
    "Ġa",
    "A",
    "É",
    "e\u0301",
    "é",
    "ﬁ",
    "Å",
    "Ⅳ",
    "ａ",
    "㍍",
    "½",
    "ß",
    "İ",
    "\u0958",
    "가",
    "\u1112\u1161\u11ab",
    "<unk>",
    "[UNK]",
    "</s>",
    "a\u200db",
    "a\ufeffb",
    "a\u00adb",
    "\ufffd",
    "qzxjvkw" * 30,
    "Ж" * 120,
    "我们的语言",
    "\U0001f469\u200d\U0001f467",
    "e\u0323\u0301",
    "e\u0301\u0323",
)


class ReadBack(Protocol):
    """A function that encodes texts with a tokenizer and decodes them again."""

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, list[bool]]]:
        """Return each text as decoded, and for each character whether a known token holds it.

        For a tokenizer without an unknown token the answer is yes for every character.
        """
        ...


def is_lossless(read_back: ReadBack) -> bool:
    """Return whether a tokenizer decodes every probe of characters and white space unchanged."""
    probes = [*_PROBES, *_characters()]
    return all(text == back for text, (back, _) in zip(probes, read_back(probes), strict=True))


def _characters() -> Iterator[str]:
    """Yield texts of all of ASCII and Latin-1, and of some of each assigned range of Unicode."""
    yield "".join(map(chr, range(0x100)))
    sampled = [chr(code) for code in (*range(0x100, 0x3400, 7), *range(0x3400, 0x30000, 191))]
    kept = [char for char in sampled if unicodedata.category(char) not in ("Cs", "Cn", "Co")]
    for begin in range(0, len(kept), 64):
        # A combining mark at the beginning of a text has nothing to join.
        yield "a".join(["", *kept[begin : begin + 64], ""])


class LossCounter:
    """A counter of what a tokenizer loses, see `Lost`, which remembers what it has found out."""

    def __init__(self, read_back: ReadBack, *, tokens: Iterable[str]) -> None:
        """Prepare to read texts back, each between two copies of a letter or of one of `tokens`."""
        self._ask = read_back
        self._remembered: dict[str, Lost] = {}
        self._changed: dict[str, bool] = {}
        self._added = ""
        near = (token for token in chain(_NEIGHBOURS, tokens) if self._survives(token))
        self._near = next(near, "")
        [(back, _)] = read_back([self._near])
        before = back.removesuffix(self._near)
        self._added = before if before.isspace() else ""

    def lost(self, piece: Piece, *, starts_document: bool) -> Lost:
        """Count the characters lost of `piece`, which must not cut a word in two.

        White space at an end of a document is read back there, where a tokenizer may strip it.
        """
        parts = _WORD_OR_BLANKS.findall(piece.text)
        total = Lost()
        if parts and starts_document and parts[0].isspace():
            total = total.plus(self._edge(parts.pop(0), begins=True))
        if parts and piece.ends_document and parts[-1].isspace():
            total = total.plus(self._edge(parts.pop(), begins=False))
        counts = Counter(parts)
        lost_of = {part: self._remembered[part] for part in counts if part in self._remembered}
        new = [part for part in counts if part not in lost_of]
        for begin in range(0, len(new), _BATCH_WORDS):
            lost_of |= self._learn(new[begin : begin + _BATCH_WORDS])
        sums = [0, 0, 0]
        for part, count in counts.items():
            for i, n in enumerate(lost_of[part]):
                sums[i] += n * count
        return total.plus(Lost(*sums))

    def keeps(self, blanks: str) -> bool:
        """Return whether white space comes back when it stands between words."""
        [(back, _)] = self._read_back([f"{self._near}{blanks}{self._near}"])
        return back == f"{self._near}{blanks}{self._near}"

    def _read_back(self, texts: Sequence[str]) -> list[tuple[str, list[bool]]]:
        """Read texts back, without the white space that the tokenizer puts before every text."""
        return [(back.removeprefix(self._added), has) for back, has in self._ask(texts)]

    def _survives(self, token: str) -> bool:
        if not token or any(map(str.isspace, token)):
            return False
        [(back, has)] = self._read_back([f"{token} {token}"])
        return _visible(back) == token * 2 and has[0] and has[-1]

    def _learn(self, parts: list[str]) -> dict[str, Lost]:
        """Return the losses of new words and white space; remember those of short ones."""
        found = self._lost_of_each(parts)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered |= {
            part: lost for part, lost in found.items() if len(part) <= _LONGEST_REMEMBERED
        }
        return found

    def _lost_of_each(self, parts: list[str]) -> dict[str, Lost]:
        near, lost_of = self._near, dict[str, Lost]()
        texts = [
            f"{near}{part}{near}" if part.isspace() else f"{near} {part} {near}" for part in parts
        ]
        for part, text, (back, has) in zip(parts, texts, self._read_back(texts), strict=True):
            if back == text:
                lost_of[part] = Lost()
            elif part.isspace():
                inner = back[len(near) : len(back) - len(near)]
                lost_of[part] = _lost_blanks(part, inner)
            else:
                begin = len(near) + 1
                lost_of[part] = self._lost_word(part, back, has[begin : begin + len(part)])
        return lost_of

    def _lost_word(self, word: str, back: str, has: list[bool]) -> Lost:
        inner = _visible(back).removeprefix(self._near).removesuffix(self._near)
        if inner == word:
            n_around = 2 if self._near else 0
            return Lost(blanks=max(0, sum(map(str.isspace, back.strip())) - n_around))
        if len(inner) == len(word):
            changed = [char != its for char, its in zip(word, inner, strict=True)]
        else:
            changed = [self._is_changed(char) for char in word]
        lost = sum(other or not known for other, known in zip(changed, has, strict=True))
        # Characters that survive alone but not together were composed or reordered.
        return Lost(hidden=lost or len(word))

    def _is_changed(self, char: str) -> bool:
        """Return whether a character that tokens hold comes back as another, or not at all."""
        if char not in self._changed:
            near = self._near
            [(back, has)] = self._read_back([f"{near} {char} {near}"])
            inner = _visible(back).removeprefix(near).removesuffix(near)
            self._changed[char] = has[len(near) + 1] and inner != char
        return self._changed[char]

    def _edge(self, blanks: str, *, begins: bool) -> Lost:
        [(back, _)] = self._read_back([blanks + self._near if begins else self._near + blanks])
        if begins:  # compare from the word outwards
            blanks, back = blanks[::-1], back[::-1]
        return _lost_blanks(blanks, back[len(self._near) :])


def _lost_blanks(blanks: str, back: str) -> Lost:
    """Return what is lost of the white space `blanks` if it comes back as `back`."""
    if back.strip():  # the text of an unknown token
        return Lost(hidden=len(blanks), line_ends=count_line_ends(blanks))
    pairs = enumerate(zip(blanks, back, strict=False))
    n_same = next((i for i, (one, other) in pairs if one != other), min(len(blanks), len(back)))
    n_lost_ends = max(0, count_line_ends(blanks) - count_line_ends(back))
    return Lost(blanks=max(len(blanks), len(back)) - n_same, line_ends=n_lost_ends)


def _visible(text: str) -> str:
    return "".join(text.split())
