"""What `txl prepare` ends with can be done: the command fits the corpus."""

from pathlib import Path
from typing import Literal

import pytest

from trainer.config.command_line.arguments import parse_train
from trainer.data.corpus import open_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare


@pytest.mark.parametrize(
    ("tokenizer", "n_words", "flags"),
    [
        ("words", 300, ["--train.train-batch-size", "9"]),
        ("words", 25_000, ["--model.cutoffs", "1250", "5000"]),
        ("bytes", 3_000, ["--train.tgt-len", "128"]),
        ("characters", 3_000, ["--valid.mem-len", "384"]),
    ],
)
def test_the_command_that_it_ends_with_fits_the_vocabulary_and_the_length_of_the_text(
    tmp_path: Path,
    tokenizer: Literal["words", "bytes", "characters"],
    n_words: int,
    flags: list[str],
) -> None:
    text = tmp_path / "text"
    text.write_text(" ".join(f"word{i:05}" for i in range(n_words)) + "\n")
    options = PrepareOptions(out=tmp_path / "c", train=(text,), tokenizer=tokenizer)
    words = prepare(options).lines()[-1].split()
    assert " ".join(flags) in " ".join(words)
    arguments = parse_train(words[words.index("quickstart") :])
    model, train = arguments.experiment.model, arguments.experiment.train
    n_tokens = open_corpus(tmp_path / "c").splits["train"].n_tokens
    assert train.train_batch_size * train.tgt_len < n_tokens
    assert all(cutoff < open_corpus(tmp_path / "c").vocabulary.size for cutoff in model.cutoffs)


def test_what_the_ids_do_not_tell_is_reported(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on a mat\n" * 50)
    (tmp_path / "valid.txt").write_text("the  dog sat\n")
    options = {"train": (text,), "valid": (tmp_path / "valid.txt",)}
    lines = prepare(PrepareOptions(out=tmp_path / "words", **options)).lines()  # type: ignore[arg-type]
    assert "not in the ids" not in lines[0]
    assert lines[1].endswith("| not in the ids: 3 characters and 1 of white space (30.77%)")
    assert "the ids do not tell all of the text, so bpc will not be given" in lines
    bpe = PrepareOptions(out=tmp_path / "bpe", tokenizer="bpe", **options)  # type: ignore[arg-type]
    assert not any("not " in line for line in prepare(bpe).lines())


@pytest.mark.parametrize("tokenizer", ["words", "bpe"])
def test_a_text_without_spaces_between_words_is_noticed(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "text.txt").write_text(f"{'春眠不覺曉處處聞啼鳥' * 9}\n" * 30)
    options = PrepareOptions(
        out=tmp_path / "corpus",
        train=(tmp_path / "text.txt",),
        tokenizer=tokenizer,  # type: ignore[arg-type]
    )
    [told] = [line for line in prepare(options).lines() if "characters per word" in line]
    assert "train has 46 characters per word: it seems to have no spaces" in told
    assert ("--tokenizer bpe or characters" in told) == (tokenizer == "words")
