"""Figures of one text under different tokenizers: they agree, or are absent."""

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import rewrite_header
from hypothesis import given
from hypothesis import strategies as st
from made_text import made_text
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.commands.corpora import ShowCorpus
from trainer.data.corpus import Split, open_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import Lost, WordVocabulary, load_vocabulary
from trainer.inference.score import Score

N_WORDS = 12_000
FOREIGN = str.maketrans("aeos", "аеос")


def lines_of_words(n_words: int) -> str:
    """Return so many ids' lines of one space between words, which is all that ids of words tell."""
    lines, left = [], n_words
    for line in made_text("A story", n_lines=n_words).splitlines():
        words = line.split()[: left - 1]
        lines.append(" ".join(words))
        left -= len(words) + 1
        if left < 1:
            break
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder: a text, one with foreign letters, and a tokenizer that drops these."""
    folder = tmp_path_factory.mktemp("texts")
    text = lines_of_words(N_WORDS)
    middle = len(text) // 2
    (folder / "plain.txt").write_text(text)
    (folder / "foreign.txt").write_text(text[:middle] + text[middle:].translate(FOREIGN))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.save(str(folder / "lossy.json"))
    prepare(PrepareOptions(out=folder / "words", train=(folder / "plain.txt",)))
    return folder


HOW: dict[str, dict[str, Any]] = {
    "words": {"vocab": "words"},
    "bpe": {"tokenizer": "bpe", "vocab_size": 400},
    "bytes": {"tokenizer": "bytes"},
    "characters": {"tokenizer": "characters"},
    "lossy": {"vocab": "lossy.json"},
}


def prepared(folder: Path, text: str, how: str) -> Split:
    options = dict(HOW[how])
    if "vocab" in options:
        options["vocab"] = folder / options["vocab"]
    out = folder / f"{how} of {text}"
    prepare(PrepareOptions(out=out, train=(folder / f"{text}.txt",), overwrite=True, **options))
    return open_corpus(out).splits["train"]


def nats(character: str) -> float:
    """Return nats of a character, by a distribution that knows of no tokens."""
    return 1 + ord(character) % 7 / 4


def figures(split: Split, *, told: str) -> dict[str, float | None]:
    """Return metrics of a model that finds in the ids the characters that they tell, no others."""
    total = math.fsum(map(nats, told))
    loss = total / split.n_tokens
    score = Score(loss=loss, n_tokens=split.n_tokens, loss_sum=total, seconds=1.0)
    return score.metrics(split)


@pytest.mark.parametrize("how", HOW)
def test_where_nothing_is_lost_all_tokenizers_give_the_same_figures(folder: Path, how: str) -> None:
    split, text = prepared(folder, "plain", how), (folder / "plain.txt").read_text()
    assert split.absent == {}
    total = math.fsum(map(nats, text))
    given = figures(split, told=text)
    assert given["ppl_word"] == pytest.approx(math.exp(total / N_WORDS))
    n_characters = len(text)  # all of them of one byte
    assert given["bpc"] == pytest.approx(total / math.log(2) / n_characters)
    if how == "words":
        assert split.n_tokens == N_WORDS


@pytest.mark.parametrize("how", HOW)
def test_where_characters_are_lost_no_figure_is_of_less_than_the_text(
    folder: Path, how: str
) -> None:
    split, text = prepared(folder, "foreign", how), (folder / "foreign.txt").read_text()
    n_foreign = sum(text.count(chr(code)) for code in FOREIGN.values() if isinstance(code, int))
    n_unknown_words = sum(1 for word in text.split() if not word.isascii())
    assert min(n_foreign, n_unknown_words) > N_WORDS / 4
    given = figures(split, told=text)
    if how == "lossy":
        assert (given["ppl_word"], given["bpc"]) == (None, None)
        assert split.header.n_hidden == n_foreign
        assert f"{n_foreign:,} of {len(text):,} characters" in split.absent["ppl_word"]
        return
    if how == "words":  # an unknown word is a word, as in published results, but not its letters
        assert split.header.n_unknown == n_unknown_words
        assert split.header.n_hidden == sum(len(w) for w in text.split() if not w.isascii())
        assert (given["bpc"], split.n_words) == (None, N_WORDS)
        assert given["ppl_word"] is not None
        return
    total = math.fsum(map(nats, text))
    assert given["ppl_word"] == pytest.approx(math.exp(total / N_WORDS))
    n_symbols = len(text.encode()) if how == "bytes" else len(text)
    assert given["bpc"] == pytest.approx(total / math.log(2) / n_symbols)
    assert (given["loss"], split.absent) == (pytest.approx(total / split.n_tokens), {})


@pytest.mark.parametrize("tokenizer", ["Whitespace", "WhitespaceSplit", "BertPreTokenizer"])
def test_line_ends_that_no_id_tells_are_no_words(tmp_path: Path, tokenizer: str) -> None:
    text = "the cat sat\n\non the mat\nthe cat"
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *{*text.split()}])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = getattr(pre_tokenizers, tokenizer)()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(text)
    options = {"vocab": tmp_path / "tokenizer.json", "train": (tmp_path / "text.txt",)}
    prepare(PrepareOptions(out=tmp_path / "corpus", **options))  # type: ignore[arg-type]
    corpus = open_corpus(tmp_path / "corpus")
    split = corpus.splits["train"]
    assert corpus.vocabulary.kind == "wordlevel"
    assert split.n_words == split.n_tokens == len(text.split())
    given = Score(loss=1.0, n_tokens=8, loss_sum=8.0, seconds=1.0).metrics(split)
    assert (given["ppl_word"], given["bpc"]) == (pytest.approx(math.e), None)


def test_blanks_that_ids_of_words_do_not_tell_leave_no_bpc(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(" = A title = \n\tthe  cat\nsat\r\n")
    prepare(PrepareOptions(out=tmp_path / "corpus", train=(tmp_path / "text.txt",)))
    split = open_corpus(tmp_path / "corpus").splits["train"]
    # Both spaces at the ends of the first line, the tab, one of two spaces, the carriage return.
    assert (split.header.n_hidden, split.header.n_blanks) == (0, 5)
    assert set(split.absent) == {"bpc"}


def test_an_unk_that_is_written_in_the_text_hides_nothing() -> None:
    vocabulary = WordVocabulary(["<eos>", "the", "<unk>"])
    for text, n_hidden in (("the <unk>\n", 0), ("the cat\n", 3)):
        assert lost(vocabulary, text) == (n_hidden, 0, 0)


@given(st.text("ab \n", max_size=30))
def test_blanks_of_words_are_lost_as_far_as_they_do_not_come_back(text: str) -> None:
    vocabulary = WordVocabulary(["<eos>", *map("".join, words_of("ab", 5))])
    known = "".join(part if part.isspace() or len(part) < 6 else "a" for part in split(text))
    back = vocabulary.decode(vocabulary.encode(known))
    # Words are put together with a space, which at the ends of a text is none.
    assert lost(vocabulary, known) == (0, len(known) - len(back), 0)


def lost(vocabulary: WordVocabulary, text: str) -> Lost:
    piece = Piece(text, ends_document=True)
    [ids] = vocabulary.encode_pieces([piece])
    return vocabulary.lost(piece, ids, starts_document=True)


def words_of(letters: str, longest: int) -> Iterator[tuple[str, ...]]:
    for length in range(1, longest + 1):
        yield from itertools.product(letters, repeat=length)


def split(text: str) -> list[str]:
    return re.findall(r"\s+|\S+", text)


def test_what_an_earlier_version_did_not_count_is_absent(folder: Path) -> None:
    given = {}
    for how in HOW:
        split = prepared(folder, "plain", how)
        path = folder / f"{how} of plain" / "train.json"
        values = json.loads(path.read_text())
        del values["n_hidden"], values["n_blanks"]
        path.write_text(json.dumps(values))
        rewrite_header(path)
        old = open_corpus(path.parent).splits["train"]
        assert old.hash == split.hash
        given[how] = {*old.absent}
    assert given == {
        "words": {"bpc"},
        "bpe": set(),
        "bytes": set(),
        "characters": set(),
        "lossy": {"ppl_word", "bpc"},
    }


def test_a_tokenizer_file_keeps_the_hash_that_it_had_when_all_were_called_bpe(folder: Path) -> None:
    vocabulary = load_vocabulary(folder / "lossy.json")
    content = json.loads((folder / "lossy.json").read_text())
    assert vocabulary.to_json() == {"kind": "bpe", "tokenizer": content}


def test_show_says_which_figures_are_absent_and_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = prepared(folder, "foreign", "lossy")
    ShowCorpus(folder / "lossy of foreign").run()
    told = capsys.readouterr().out
    for name in ("ppl_word", "bpc"):
        assert f"{name} is not given: {split.absent[name]}" in told
