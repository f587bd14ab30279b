"""What cannot be used is refused in one line that says what, where and the fix; nothing changes."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training import ROOT, Case, environment, run_cases

from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import Exit


def _truncated(corpus: Path, others: Path) -> None:
    data = corpus / "train.bin"
    data.write_bytes(data.read_bytes()[:-2])


def _empty(corpus: Path, others: Path) -> None:
    (corpus / "train.bin").write_bytes(b"")


def _bit_flipped(corpus: Path, others: Path) -> None:
    header = corpus / "train.json"
    values = json.loads(header.read_text())
    header.write_text(json.dumps(values | {"n_tokens": values["n_tokens"] ^ 1}))


def _foreign(corpus: Path, others: Path) -> None:
    (corpus / "train.json").write_text('{"dtype": "uint16"}')


def _revocabularied(corpus: Path, others: Path) -> None:
    shutil.copy(others / "vocabulary.json", corpus)


def _unprepared(corpus: Path, others: Path) -> None:
    shutil.rmtree(corpus)
    corpus.mkdir()
    (corpus / "text.txt").write_text("text that nobody prepared\n")


#: What is done to a copy of the corpus, and what is said of it.
CORPORA: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "missing": (lambda corpus, others: shutil.rmtree(corpus), "no such corpus.*txl prepare"),
    "unprepared": (_unprepared, "not a corpus"),
    "empty": (_empty, "train.bin: 0 bytes.*prepare it again"),
    "truncated": (_truncated, "train.bin: .*truncated.*prepare it again"),
    "bit flipped": (_bit_flipped, "train.json: corrupt header.*prepare it again"),
    "foreign": (_foreign, "train.json: not a corpus header"),
    "another vocabulary": (_revocabularied, "vocabulary.json: not the vocabulary of split"),
}
#: Flags that cannot be used, and what is said of them.
FLAGS: dict[str, tuple[list[str], str]] = {
    "batch too large": (["--train.train-batch-size", "99999"], "too few for 99,999 streams"),
    "batch not divided": (
        ["--train.train-micro-batch-size-per-gpu", "3"],
        "3 does not divide .*train_batch_size 8",
    ),
    "no key in sight": (
        ["--train.same-length", "True", "--train.mem-len", "0"],
        "same_length with mem_len 0",
    ),
    "unknown flag": (["--train.tgt-length", "9"], r"--train.tgt-length.*did you mean"),
    "wrong value": (["--train.tgt-len", "long"], r"train.tgt_len.*'long'"),
    "no run to resume": (["--resume", "must"], "has no checkpoint"),
    "no weights": (["--init-from", "nowhere"], "nowhere"),
}
FILES = {
    "ds_config.json": ('{"zero_optimization": {"stage": 9}}', "stage"),
    "ds_typo.json": ('{"gradient_cliping": 1.0}', "gradient_cliping.*did you mean"),
}


def contents(folder: Path) -> dict[str, str]:
    """Return every path below `folder`, and a hash of what it holds."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def other_corpus(folder: Path) -> Path:
    """Return a corpus with a vocabulary of its own."""
    text = folder.parent / "other.txt"
    text.write_text("other words than those of the tests\n" * 99)
    prepare(PrepareOptions(out=folder, train=(text,), tokenizer="words"))
    return folder


@pytest.fixture(scope="module")
def refusals(corpus, tmp_path_factory):
    """Return what each case was told, and whether anything on the disk changed by asking."""
    folder = tmp_path_factory.mktemp("bad")
    others = other_corpus(folder / "others")
    cases = {}
    for name, (spoil, _) in CORPORA.items():
        spoilt = folder / name
        shutil.copytree(corpus, spoilt)
        spoil(spoilt, others)
        cases[name] = Case(folder / "new", corpus=spoilt, ends=Exit.BAD_INPUT)
    for name, (flags, _) in FLAGS.items():
        cases[name] = Case(folder / "new", flags=flags, ends=Exit.BAD_INPUT)
    for name, (text, _) in FILES.items():
        (folder / name).write_text(text)
        cases[name] = Case(folder / "new", str(folder / name), ends=Exit.BAD_INPUT)
    cases["unknown recipe"] = Case(folder / "new", recipe="quickstrat", ends=Exit.BAD_INPUT)
    for taken in ("a run", "no run"):
        (folder / taken).mkdir()
        cases[f"folder of {taken}"] = Case(folder / taken, ends=Exit.BAD_INPUT)
    (folder / "no run" / "thesis.txt").write_text("the only copy")
    shutil.copy(ROOT / "trainer/recipes/enwik8-base.json", folder / "a run" / "config.json")
    before = contents(folder)
    told = run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    assert contents(folder) == before
    return dict(zip(cases, told, strict=True))


EXPECTED = {name: said for table in (CORPORA, FLAGS, FILES) for name, (_, said) in table.items()}
EXPECTED |= {
    "unknown recipe": "quickstrat.*did you mean 'quickstart'",
    "folder of a run": "model.n_layer",
    "folder of no run": "holds something that is no run",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_bad_input_is_refused_in_one_line_with_what_and_where(refusals, name):
    assert "\n" not in refusals[name]
    assert re.search(EXPECTED[name], refusals[name]), refusals[name]


def refused(*argv: str) -> str:
    """Return what a training process says when it exits as bad input makes it; all of it."""
    command = [sys.executable, str(ROOT / "launch" / "train.py"), *argv]
    ended = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=1000
    )
    assert ended.returncode == Exit.BAD_INPUT, ended.stderr
    assert ended.stdout == ""
    return ended.stderr


def test_a_process_says_it_without_a_traceback(tmp_path):
    said = refused(*Case(tmp_path / "run").argv(tmp_path / "corpus"))
    assert re.fullmatch(r"error: [^\n]*/corpus: no such corpus[^\n]*\n", said), said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this processor computes in fp16"
)
def test_fp16_where_the_device_has_none_names_the_file_to_use(corpus, tmp_path):
    said = refused(*Case(tmp_path / "run", "zero1_fp16").argv(corpus))
    assert re.search(r"fp16 is not supported on this cpu: use --deepspeed-config zero\d_\w+", said)
    assert list(tmp_path.iterdir()) == []
