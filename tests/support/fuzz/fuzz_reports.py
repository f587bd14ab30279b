"""Files of runs that reports, pages, comparisons and watching read."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from builders import tiny_experiment
from compared_runs import COMPARED, add_result, make_compared
from reported_runs import LENGTHS, NOW, make_run

from trainer.checkpoint.folder import newest_whole
from trainer.checkpoint.rollback import Rollback, write_rollback
from trainer.data.vocabulary.files import WordVocabulary, save_vocabulary
from trainer.errors import InputError
from trainer.report.compare.text import comparison, told
from trainer.report.inspect.place import place_of
from trainer.report.inspect.reading import read_step
from trainer.report.inspect.text import to_json
from trainer.report.inspect.text import told as streams
from trainer.report.page.view import view
from trainer.report.summary import read_run_or_reason
from trainer.report.table import report
from trainer.report.watch.watching import take
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.results import EvalResult
from trainer.track.run_files.stream_files import FIELDS, write_losses
from trainer.track.run_files.token_files import tokens_path

#: How a file is written, and what reads the folder that its first part names.
Reading = tuple[Literal["json", "bytes"], Callable[[Path], object]]


def make(base: Path) -> None:
    """Write a run that is reported, and one that is compared, with single tokens."""
    make_run(base / "reported")
    run = make_compared(base / "compared", nats=np.linspace(0, 9, 500))
    add_result(run, nats=np.linspace(1, 9, 500), settings=LENGTHS | {"mem_len": 0})
    words = WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, 60))])
    save_vocabulary(words, run / "vocabulary.json")
    (run / "environment.json").write_text(json.dumps({"hosts": ["a"], "commit": "b"}))
    _make_inspected(base / "inspected", base / "corpus")


def _make_inspected(run: Path, corpus: Path) -> None:
    """Make a run that went back, with the losses of its streams."""
    run.mkdir()
    (run / "config.json").write_text(tiny_experiment().model_dump_json())
    (run / "corpus.json").write_text(json.dumps({"path": str(corpus)}))
    dealt = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}
    (run / "ds_config.json").write_text(json.dumps(dealt))
    for attempt, begin, step, data_step in ((1, "start", 0, 0), (2, "rollback", 1, 3)):
        writer = MetricsWriter(run, attempt=attempt)
        at = {"update": 0, "n_tokens": 0}
        values = {"event": begin, "data_step": data_step}
        writer.write("event", step=step, values=values, **at)
        writer.write("train", step=2, values={"train/loss": 2.5}, **at)
        writer.close()
    losses = np.zeros(4, FIELDS)
    losses["attempt"], losses["step"], losses["stream"] = 2, 2, np.arange(4)
    write_losses(run, losses, step=2)
    (run / "checkpoints").mkdir()
    write_rollback(run / "checkpoints", Rollback(step=1, data_step=3, attempt=2))


def targets() -> dict[str, Reading]:
    """Return the files below the folder of all valid ones."""
    tokens = str(tokens_path(Path(), EvalResult.model_validate(COMPARED)))
    return {
        "reported/status.json": ("json", _report),
        "reported/metrics.jsonl": ("bytes", _report),
        "reported/evals/test.json": ("json", _report),
        "reported/corpus.json": ("json", _report),
        "compared/config.json": ("json", _show),
        "compared/environment.json": ("json", _show),
        "compared/vocabulary.json": ("json", _show),
        "compared/metrics.jsonl": ("bytes", _show),
        "compared/command.txt": ("bytes", _show),
        f"compared/{tokens}": ("bytes", _show),
        "inspected/metrics.jsonl": ("bytes", _inspect),
        "inspected/ds_config.json": ("json", _inspect),
        "inspected/streams/step-00000002.npy": ("bytes", _inspect),
        "inspected/checkpoints/rollback.json": ("json", _inspect),
    }


def _report(folder: Path) -> None:
    report([read_run_or_reason(folder, now=NOW)])


def _inspect(folder: Path) -> None:
    """Read a step's streams, and the checkpoints from which it would be done again."""
    newest_whole(folder / "checkpoints")
    place = place_of(folder, step=2, attempt=None)
    reading = read_step(folder, place, data=None)
    streams(reading, most=3)
    json.dumps(to_json(reading), allow_nan=False)


def _show(folder: Path) -> None:
    """Read a run for its page, without pictures, for a comparison, and to watch it."""
    run = read_run_or_reason(folder, now=NOW)
    view(run, name="x", anchor="r0", draws=False, n_bins=60)
    told(comparison([run, run], axis="hours"), [run, run])
    with suppress(InputError):
        take(folder, now=NOW)
