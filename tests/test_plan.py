"""A plan refuses, before anything is begun, what the run would only find out later."""

from pathlib import Path
from typing import Any

import pytest
from builders import random_documents, tiny_experiment, write_corpus

from trainer.data.corpus import Corpus
from trainer.errors import InputError
from trainer.plan import check_splits


def corpus_of(folder: Path, **n_tokens: int) -> Corpus:
    """A corpus whose splits have so many tokens."""
    splits = {name: random_documents(n, vocabulary_size=9) for name, n in n_tokens.items()}
    return write_corpus(folder / "corpus", vocabulary_size=9, **splits)


@pytest.mark.parametrize(
    ("n_tokens", "valid", "told"),
    [
        ({"valid": 9}, {}, "has no train split"),
        ({"train": 9}, {"patience": 2}, "--valid.patience needs a valid split, and .*/corpus has"),
        ({"train": 9, "test": 9}, {"patience": 2}, "or leave --valid.patience out"),
        ({"train": 9, "valid": 1}, {}, "split valid has one token and nothing to predict"),
    ],
)
def test_a_corpus_without_the_text_to_judge_by_is_refused(
    tmp_path: Path, n_tokens: dict[str, int], valid: dict[str, Any], told: str
) -> None:
    experiment = tiny_experiment(valid=valid)
    with pytest.raises(InputError, match=told):
        check_splits(experiment, corpus_of(tmp_path, **n_tokens))


@pytest.mark.parametrize(
    ("n_tokens", "valid"),
    [
        ({"train": 9, "valid": 2}, {"patience": 2}),
        ({"train": 9, "valid": 1}, {"interval_steps": 0}),  # which nobody reads
        ({"train": 9}, {}),
    ],
)
def test_a_corpus_that_has_it_is_taken(
    tmp_path: Path, n_tokens: dict[str, int], valid: dict[str, Any]
) -> None:
    check_splits(tiny_experiment(valid=valid), corpus_of(tmp_path, **n_tokens))
