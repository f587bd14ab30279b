"""Texts in a corpus: where their lines end, and how one of them becomes several splits."""

from pathlib import Path

import pytest
from prepared import decoded, made

from trainer.data.prepare.from_text import PrepareOptions, prepare


def test_shares_asked_for_and_shares_that_came_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat\n" * 1000)
    options = PrepareOptions(out=tmp_path / "c", train=(path,), split="8,1,1", tokenizer="bytes")
    assert "asked 80/10/10, came 80/10/10 (by bytes)" in prepare(options).lines()


@pytest.mark.parametrize("tokenizer", ["words", "bpe"])
def test_a_text_of_one_line_is_cut_between_words(tmp_path: Path, tokenizer: str) -> None:
    path = tmp_path / "text8"
    path.write_text(" ".join(["one", "two", "three", "four"] * 1000))
    corpus = made(tmp_path, train=(path,), split="90,5,5", tokenizer=tokenizer)
    texts = [decoded(corpus, name).removesuffix("<|endoftext|>") for name in corpus.splits]
    assert [word for text in texts for word in text.split()] == path.read_text().split()
    # The blank at which a line was cut is the line's end, and nothing else is lost or added.
    assert [split.n_words for split in corpus.splits.values()] == [3601, 201, 201]
    n_characters = sum(split.n_characters for split in corpus.splits.values())
    assert n_characters == len(path.read_text())


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_words_end_a_line_wherever_python_does(tmp_path: Path, line_end: str) -> None:
    lines = [f"a{i % 7} naïve" for i in range(20_000)]
    path = tmp_path / "a.txt"
    path.write_bytes(line_end.join(lines).encode())
    with path.open(encoding="utf-8") as file:  # as fairseq and kimiyoung read it
        tokens = [word for line in file for word in [*line.split(), "<eos>"]]
    corpus = made(tmp_path, train=(path,))
    ids = {word: i for i, word in enumerate(corpus.vocabulary.words)}  # type: ignore[attr-defined]
    assert corpus.splits["train"].tokens.tolist() == [ids[word] for word in tokens]
    bpe = made(tmp_path, train=(path,), tokenizer="bpe", vocab_size=300, overwrite=True)
    assert bpe.splits["train"].n_words == len(tokens)
    assert decoded(bpe, "train").removesuffix("<|endoftext|>") == line_end.join(lines)
