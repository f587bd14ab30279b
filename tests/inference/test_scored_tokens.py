"""The nats of single tokens are those of the evaluation, whatever reads them, and say where."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import lone_world, write_corpus, write_split
from saved_checkpoints import alter_state

from trainer.data.corpus import open_corpus
from trainer.inference import filing
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.inference.scored_tokens import gathered, sum_of, token_table, train_counts
from trainer.track.run_files.results import EvalResult
from trainer.track.run_files.token_files import Tokens, read_tokens, tokens_path


def filed(run: Path, **options: Any) -> list[tuple[EvalResult, Tokens | None]]:
    """Return the results of an evaluation with their tokens."""
    values = {"split": "valid", "per_token": True, **options}
    results = evaluate_run(EvalOptions(run_dir=run, **values), lone_world())
    return [(result, read_tokens(run, result)) for result in results]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_result_is_exactly_the_sum_of_its_tokens(run: Path, corpus: Path) -> None:
    opened = open_corpus(corpus)
    split = opened.splits["valid"]
    both = filed(run, mem_len="0,20")
    for result, tokens in both:
        assert tokens is not None
        assert result.loss == math.fsum(tokens["nats"].tolist()) / len(tokens)
        assert tokens["position"].tolist() == list(range(1, split.n_tokens))
        assert tokens["token"].tolist() == split.tokens[1:].tolist()
        assert tokens["since_empty"].tolist() == list(range(1, split.n_tokens))
        starts = np.flatnonzero(tokens["starts_document"]) + 1
        assert starts.tolist() == split.document_starts[1:].tolist()
        train = opened.splits["train"].tokens.tolist()
        assert tokens["train_count"][:9].tolist() == [
            train.count(token) for token in split.tokens[1:10].tolist()
        ]
    (without, _), (with_memory, _) = both
    assert without.loss != with_memory.loss
    (plain, _) = filed(run, mem_len="20", per_token=False)[0]
    assert plain.loss == pytest.approx(with_memory.loss, rel=1e-6)


def test_a_result_as_fairseq_counts_has_the_tokens_that_it_counts(run: Path) -> None:
    ((result, tokens),) = filed(run, as_fairseq=True)
    assert tokens is not None
    assert len(tokens) == result.n_tokens
    assert all(tokens["position"] % 12)


def test_memory_that_ends_with_a_document_is_empty_at_the_next(tmp_path: Path) -> None:
    split = write_split(tmp_path / "corpus", [range(3), range(4)], vocabulary_size=4)
    rows = gathered([(1, torch.ones(6))], lone_world())
    cut = token_table(rows, split, counts=None, cut_documents=True)
    assert cut["since_empty"].tolist() == [1, 2, 3, 1, 2, 3]
    assert cut["starts_document"].tolist() == [False, False, True, False, False, False]
    whole = token_table(rows, split, counts=None, cut_documents=False)
    assert whole["since_empty"].tolist() == [1, 2, 3, 4, 5, 6]
    assert set(whole["train_count"]) == {-1}


def test_the_evaluation_says_where_memory_was_cut(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = []

    def noted(*args: Any, cut_documents: bool, **how: Any) -> Tokens:
        cuts.append(cut_documents)
        return token_table(*args, cut_documents=cut_documents, **how)

    monkeypatch.setattr(filing, "token_table", noted)
    filed(run, checkpoint="6")
    alter_state(run, '"memory_reset": "epoch"', '"memory_reset": "document"')
    filed(run, checkpoint="6")
    assert cuts == [False, True]


def test_rows_of_ranks_are_brought_into_the_order_of_the_text_and_summed_exactly() -> None:
    rows = gathered([(3, torch.tensor([1e8])), (1, torch.tensor([1.0, -1e8]))], lone_world())
    assert [begin for begin, _ in rows] == [1, 3]
    assert sum_of(rows) == 1.0


def test_words_are_counted_in_the_text_that_was_trained_on(trained: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", vocabulary_size=9, train=[range(9)], test=[range(5)])
    assert train_counts(trained, other) is None  # another vocabulary
    found = train_counts(tmp_path / "none", other)
    assert found is not None
    assert found.tolist() == [1] * 9


def test_another_result_of_the_run_has_no_tokens(run: Path) -> None:
    ((result, _),) = filed(run, per_token=False)
    assert not tokens_path(run, result).exists()
