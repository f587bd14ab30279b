"""What a stream read is what the run's streams give, in every order; the worst come first."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders import random_documents, streams_of, tiny_experiment, write_corpus

from trainer.data.corpus import Corpus
from trainer.errors import InputError
from trainer.report.inspect.place import place_of
from trainer.report.inspect.reading import Reading, read_step
from trainer.report.inspect.text import to_json, told
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.stream_files import FIELDS, read_losses, write_losses

S, T, SEED = 6, 5, 3


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    documents = random_documents(400, vocabulary_size=30) + [[1, 2, 3]] * 5
    return write_corpus(tmp_path / "corpus", vocabulary_size=30, train=documents)


def a_run(
    tmp_path: Path, corpus: Corpus, order: str = "same", bptt_segments: int = 1, **data: int
) -> Path:
    """Return a run of 200 steps that nobody trained."""
    run_dir = tmp_path / f"run {order}"
    run_dir.mkdir()
    train = {"train_batch_size": S, "tgt_len": T, "bptt_segments": bptt_segments}
    experiment = tiny_experiment(train=train, data={"epoch_order": order, **data}, model={})
    experiment = experiment.model_copy(update={"seed": SEED})
    (run_dir / "config.json").write_text(experiment.model_dump_json())
    named = {"path": str(corpus.path), "hash": corpus.hash}
    (run_dir / "corpus.json").write_text(json.dumps(named))
    dealt = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 3}
    (run_dir / "ds_config.json").write_text(json.dumps(dealt))
    writer = MetricsWriter(run_dir, attempt=1)
    writer.write("train", step=200, update=200, n_tokens=1, values={"train/loss": 2.5})
    writer.close()
    return run_dir


def reading_of(run_dir: Path, step: int) -> Reading:
    return read_step(run_dir, place_of(run_dir, step=step, attempt=None), data=None)


@pytest.mark.parametrize("bptt_segments", [1, 3])
@pytest.mark.parametrize(
    ("order", "data"),
    [("same", {}), ("roll", {}), ("roll_streams", {}), ("documents", {"piece_tokens": 7})],
)
def test_each_stream_s_text_is_that_of_its_segment(
    tmp_path: Path, corpus: Corpus, order: str, data: dict[str, int], bptt_segments: int
) -> None:
    run_dir, split = a_run(tmp_path, corpus, order, bptt_segments, **data), corpus.splits["train"]
    for step in (1, 14, 15, 33, 200):
        found = {stream.stream: stream for stream in reading_of(run_dir, step).streams}
        for rank in range(2):
            streams = streams_of(
                split=split,
                train_batch_size=S,
                tgt_len=T,
                bptt_segments=bptt_segments,
                slots=3,
                rank=rank,
                world_size=2,
                epoch_order=order,
                seed=SEED,
                **data,
            )
            for slot in range(3):
                (stream,) = streams.stream_ids(slot).tolist()
                read, n = [], 0
                for segment in streams.segments(step - 1, slot):
                    here = int(segment.lengths_B[0])
                    if here:
                        last = int(segment.targets_BT[0, here - 1])
                        read = [*read[:-1], *segment.tokens_BT[0, :here].tolist(), last]
                    n += here
                if n == 0:
                    assert stream not in found
                    continue
                one = found[stream]
                assert one.text == corpus.vocabulary.decode(read)
                assert (one.rank, one.slot, one.n_tokens) == (rank, slot, n)
                start = int(split.document_starts[one.document])
                assert start + one.offset == one.position
                assert split.tokens[one.position] == read[0]
                ends = [*split.document_starts.tolist(), split.n_tokens][one.document + 1]
                assert start <= one.position < ends
                inputs = [
                    int(split.tokens[passage.position + i])
                    for passage in one.passages
                    for i in range(passage.n_tokens)
                ]
                assert inputs == read[:-1]
                for passage in one.passages:
                    start = int(split.document_starts[passage.document])
                    assert start + passage.offset == passage.position


def test_the_worst_streams_come_first_and_json_has_all(tmp_path: Path, corpus: Corpus) -> None:
    run_dir = a_run(tmp_path, corpus)
    unsorted = reading_of(run_dir, 7)
    assert [stream.stream for stream in unsorted.streams] == list(range(S))
    assert "were not filed" in told(unsorted, most=2)
    losses = np.zeros(S, FIELDS)
    losses["attempt"], losses["step"], losses["stream"] = 1, 7, np.arange(S)
    losses["nats"] = [5, 10, np.nan, 30, 20, np.inf]
    write_losses(run_dir, losses, step=7)
    reading = reading_of(run_dir, 7)
    assert [stream.stream for stream in reading.streams] == [2, 5, 3, 4, 1, 0]
    assert [stream.loss for stream in reading.streams][2:] == [6.0, 4.0, 2.0, 1.0]
    shown = told(reading, most=3).splitlines()
    assert [line.split()[0] for line in shown[-4:]] == ["2", "5", "3", "and"]
    values = json.loads(json.dumps(to_json(reading), allow_nan=False))
    assert [stream["loss"] for stream in values["streams"]] == [None, None, 6.0, 4.0, 2.0, 1.0]
    assert values["data_step"] == 6


def test_another_corpus_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    run_dir = a_run(tmp_path, corpus)
    other = write_corpus(tmp_path / "other", vocabulary_size=30, train=[[1, 2, 3] * 50])
    place = place_of(run_dir, step=7, attempt=None)
    with pytest.raises(InputError, match=r"was trained on .* give that one with --data"):
        read_step(run_dir, place, data=other.path)


def test_a_broken_file_of_losses_is_named(tmp_path: Path) -> None:
    for n, content in enumerate([b"", b"\x93NUMPY", b"x" * 200]):
        run_dir = tmp_path / str(n)
        (run_dir / "streams").mkdir(parents=True)
        (run_dir / "streams" / "step-00000001.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"step-00000001\.npy: no losses of streams"):
            read_losses(run_dir, attempt=1, step=1)


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    for step in range(1, 21):
        losses = np.zeros(1, FIELDS)
        losses["attempt"], losses["step"] = 1, step
        write_losses(tmp_path, losses, step=step)
    kept = sorted(path.name for path in (tmp_path / "streams").iterdir())
    assert kept == [f"step-{step:08d}.npy" for step in range(5, 21)]
