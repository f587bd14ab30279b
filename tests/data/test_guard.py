"""A corpus that is changed, cut or damaged under a run ends it, with a line that names the file."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import random_documents, streams_of, write_corpus
from training import Case, run_cases

from trainer.data import guard
from trainer.data.corpus import Split, open_corpus
from trainer.data.header import BLOCK_BYTES
from trainer.errors import CorpusError, Exit
from trainer.training.due import CHECKED_STEPS

TEN = np.arange(10)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Return a split of ids up to 29, of a vocabulary of 40."""
    ids = [*random_documents(2000, vocabulary_size=30)[0], 29]
    return write_corpus(tmp_path / "corpus", vocabulary_size=40, train=[ids]).splits["train"]


def overwrite(split: Split, place: int, value: int) -> None:
    with split.path.open("r+b") as file:
        file.seek(place * split.tokens.itemsize)
        file.write(np.array([value], split.tokens.dtype).tobytes())


def test_an_id_that_the_header_does_not_know_is_refused_where_it_is_read(split: Split) -> None:
    overwrite(split, 12, 30)  # the vocabulary has it, the text had not
    assert split.take(TEN).tolist() == split.tokens[:10].tolist()
    with pytest.raises(CorpusError, match=r"train\.bin has id 30 where the run reads, but 29 is"):
        split.take(TEN + 5)


def test_a_cut_file_is_refused_before_it_is_read(split: Split) -> None:
    os.truncate(split.path, 100)
    with pytest.raises(CorpusError, match=r"train\.bin was cut to 100 bytes while a run reads it"):
        split.take(TEN + 1500)  # reading it would be SIGBUS


def test_a_changed_block_is_named_and_others_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_ids = 3 * BLOCK_BYTES // 2 - 100
    ids = np.arange(n_ids) % 30
    split = write_corpus(tmp_path / "corpus", vocabulary_size=40, train=[ids]).splits["train"]
    overwrite(split, n_ids - 1, 3)
    guard.check_blocks(split.path, split.header, [0, 1])
    with pytest.raises(CorpusError, match=r"block 2 of 3 has another hash"):
        guard.check_blocks(split.path, split.header, [0, 2])
    assert guard.sampled(split.header, also=[n_ids - 1], n=0) == [2]
    assert guard.sampled(split.header) == [0, 1, 2]
    assert {guard.sampled(split.header, n=1)[0] for _ in range(60)} == {0, 1, 2}


def test_a_stream_s_place_is_that_of_the_segment_that_it_reads(split: Split) -> None:
    how: dict[str, Any] = {"slots": 2, "rank": 1, "world_size": 2, "seed": 3}
    for order in ("same", "roll", "roll_streams", "documents"):
        streams = streams_of(split=split, train_batch_size=8, tgt_len=7, epoch_order=order, **how)
        for data_step in (0, 5, 50):
            segment = streams.segment(data_step, 1)
            places = streams.begins(data_step, 1)
            assert split.tokens[places].tolist() == segment.tokens_BT[:, 0].tolist()


def test_a_run_ends_with_the_line_and_its_status_has_the_code(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("changed", "cut"):
        shutil.copytree(corpus, tmp_path / name)
    changed, cut = (tmp_path / name / "train.bin" for name in ("changed", "cut"))
    changed.write_bytes(changed.read_bytes()[::-1])
    monkeypatch.setenv("CUT", str(cut))
    cases = [
        Case(tmp_path / "run of changed", corpus=changed.parent, ends=Exit.BAD_INPUT),
        Case(
            tmp_path / "run of cut",
            flags=["--model.factory", "cutting_model:build"],
            corpus=cut.parent,
            ends=Exit.BAD_INPUT,  # of the process that the tests train in: not that of the command
        ),
    ]
    told = run_cases(cases, corpus=corpus, n_ranks=1)
    for case, line, file in zip(cases, told, (changed, cut), strict=True):
        status = case.left["status"]
        assert line.startswith(str(file))
        assert (status["state"], status["exit_code"]) == ("failed", Exit.CORPUS)
        assert status["reason"] == line
    assert cases[1].left["status"]["step"] == 3
    assert open_corpus(corpus).splits["train"].take(TEN).size == 10


def test_a_block_that_changes_under_a_run_is_found_while_it_trains(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = shutil.copytree(corpus, tmp_path / "changed") / "train.bin"
    monkeypatch.setenv("CHANGED", str(changed))
    flags = ["--model.factory", "cutting_model:build", "--train.max-steps", str(CHECKED_STEPS + 9)]
    case = Case(tmp_path / "run", flags=flags, corpus=changed.parent, ends=Exit.BAD_INPUT)
    (line,) = run_cases([case], corpus=corpus, n_ranks=1)
    assert line.startswith(str(changed))
    assert case.left["status"]["step"] == CHECKED_STEPS
