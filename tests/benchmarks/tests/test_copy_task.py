"""The copy task's text lies in segments as the task says, and is scored by what it repeats."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from training import ROOT

import trainer


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks" / "recurrent"))
    import copy_task

    return copy_task


@pytest.mark.parametrize("n_segments", [2, 4, 8])
def test_a_document_repeats_its_first_segment_in_its_last(task: Any, n_segments: int) -> None:
    tgt_len, n_symbols = task.T, task.N_SYMBOLS
    text = task.document(random.Random(1), n_segments)
    assert len(text) == n_segments * tgt_len
    assert text[-n_symbols:] == text[:n_symbols]
    assert text[tgt_len:-tgt_len] == "." * (n_segments - 2) * tgt_len


def test_each_stream_reads_every_stage_and_every_step_whole_documents(task: Any) -> None:
    assert all(task.LONGEST % n_segments == 0 for n_segments in task.STAGES)
    lead, *texts = task.documents(random.Random(0))
    lengths = [len(text) // task.T for text in texts]
    one_stream = lengths[: len(lengths) // task.B]
    assert lengths == one_stream * task.B
    n_pairs = len(lead) + sum(map(len, texts)) - 1
    assert n_pairs == task.B * task.T * sum(one_stream)  # streams begin before a document
    assert sum(one_stream) == task.LONGEST * sum(task.STAGES.values())


class Perfect:
    """A model whose memory is the first segment, of whose symbols it knows some."""

    def __init__(self, n_known: int) -> None:
        self.n_known = n_known

    def empty_memory(self, n_streams: int, **_: Any) -> torch.Tensor:
        return torch.zeros(n_streams, 0, dtype=torch.int64)

    def predict(self, segment: Any, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not memory.shape[1]:
            assert segment.starts_BT[0].tolist() == [0, 1, 1, 1, 1]
            memory = segment.tokens_BT[:, 1:]
        said_BT = torch.zeros_like(segment.tokens_BT)
        said_BT[:, 1 : 1 + self.n_known] = memory[:, : self.n_known]
        return torch.nn.functional.one_hot(said_BT, 256).float(), memory


@pytest.mark.parametrize("n_known", [0, 3, 4])
def test_it_counts_the_symbols_that_are_predicted(
    task: Any, monkeypatch: pytest.MonkeyPatch, n_known: int
) -> None:
    vocabulary = type("Vocabulary", (), {"encode": staticmethod(lambda text: text.encode())})
    loaded = type("Loaded", (), {"module": Perfect(n_known), "vocabulary": vocabulary})
    monkeypatch.setattr(trainer, "load", lambda *_, **__: loaded)
    assert task.accuracy(Path("run"), task.LONGEST) == n_known / task.N_SYMBOLS
