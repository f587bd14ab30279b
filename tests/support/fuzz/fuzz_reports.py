"""Files of runs that reports, pages, comparisons and watching read."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from compared_runs import COMPARED, add_result, make_compared
from reported_runs import LENGTHS, NOW, make_run

from trainer.data.vocabulary.files import WordVocabulary, save_vocabulary
from trainer.errors import InputError
from trainer.report.compare.text import comparison, told
from trainer.report.page.view import view
from trainer.report.summary import read_run_or_reason
from trainer.report.table import report
from trainer.report.watch.watching import take
from trainer.track.results import EvalResult
from trainer.track.token_files import tokens_path

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


def targets() -> dict[str, Reading]:
    """The files below the folder of all valid ones."""
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
    }


def _report(folder: Path) -> None:
    report([read_run_or_reason(folder, now=NOW)])


def _show(folder: Path) -> None:
    """Read a run for its page, without pictures, for a comparison, and to watch it."""
    run = read_run_or_reason(folder, now=NOW)
    view(run, name="x", anchor="r0", draws=False, n_bins=60)
    told(comparison([run, run], axis="hours"), [run, run])
    with suppress(InputError):
        take(folder, now=NOW)
