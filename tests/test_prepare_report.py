"""What `txl prepare` ends with can be done: the command fits the corpus."""

from pathlib import Path
from typing import Literal

import pytest

from trainer.arguments import parse_train
from trainer.data.corpus import open_corpus
from trainer.data.prepare import PrepareOptions, prepare


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
    tmp_path: Path, tokenizer: Literal["words", "bytes", "characters"], n_words: int,
    flags: list[str],
) -> None:  # fmt: skip
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
