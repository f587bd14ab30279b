"""What a task of a sweep trains is told by its line, and by nothing that a shell would run."""

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import ROOT, environment

from trainer.config.command_line.arguments import parse_train
from trainer.errors import Exit

FILE = str(ROOT / "launch" / "slurm" / "sweep_task.py")
task = SimpleNamespace(**runpy.run_path(FILE))

WORDS = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), max_size=9)
LINES = """\
# learning rates
--optim.lr 1e-3

  # two recipes
wt103-base --model.cutoffs 100 400 # small
quickstart --tracking.tags 'a b' c#d "it's" $HOME `touch /tmp/x` \\#e
"""


def submitted(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """sweep.sbatch, as a task that Slurm starts."""
    return subprocess.run(
        ["bash", "launch/slurm/sweep.sbatch", *arguments],
        cwd=ROOT,
        env=environment(PYTHON=sys.executable, **variables),
        text=True,
        capture_output=True,
        check=False,
    )


@given(words=st.lists(WORDS, max_size=6), comment=st.sampled_from(["", " # x 'y", "\t#"]))
def test_a_line_is_read_as_a_shell_reads_it(words: list[str], comment: str) -> None:
    assert task.words_of(shlex.join(words) + comment) == words


def test_comments_and_blank_lines_do_not_count_and_nothing_is_expanded(tmp_path: Path) -> None:
    path = tmp_path / "sweep.txt"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode())
    assert [task.words_of_task(path, index) for index in range(3)] == [
        ["--optim.lr", "1e-3"],
        ["wt103-base", "--model.cutoffs", "100", "400"],
        ["quickstart", "--tracking.tags", "a b", "c#d", "it's", "$HOME", "`touch", "/tmp/x`", "#e"],
    ]


@pytest.mark.parametrize(
    ("own", "common"),
    [
        (["--optim.lr", "0.5"], ["quickstart", "--data", "c", "--optim.lr", "0.1"]),
        (["quickstart", "--optim.lr=0.5"], ["--data", "c", "--optim.lr=0.1"]),
    ],
)
def test_a_line_wins_over_what_is_for_all_wherever_the_recipe_is_named(
    own: list[str], common: list[str]
) -> None:
    parsed = parse_train(task.training(own, common, sweep="rates", task=2)).experiment
    assert parsed.optim.lr == 0.5
    assert (parsed.tracking.group, parsed.tracking.name) == ("rates", "rates-2")
    named = [*common, "--tracking.group", "mine"]
    parsed = parse_train(task.training(own, named, sweep="rates", task=2)).experiment
    assert (parsed.tracking.group, parsed.tracking.name) == ("mine", "rates-2")


@pytest.mark.parametrize(
    ("content", "index", "told"),
    [
        (None, "0", "sweep.txt: No such file or directory"),
        ("--a 1\n--b 2\n", "2", "tasks 0 to 1, but this is task 2: submit with --array=0-1"),
        ("# none\n\n", "0", "has no line of arguments"),
        ("--a 1\n--b 'x\n", "1", 'line 2: No closing quotation: "--b \'x"'),
        ("--b x\\\n", "0", "line 1: No escaped character"),
        ("--b \udcff\n", "0", "line 1: not UTF-8"),
        ("--b \0\n", "0", "line 1: a NUL in the line"),
        ("--a 1\n", "", "no task of an array: submit sweep.sbatch with --array=0-N"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    content: str | None, index: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.txt"
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    refused = submitted(str(path), "quickstart", SLURM_ARRAY_TASK_ID=index, SLURM_ARRAY_JOB_ID="7")
    assert refused.returncode == Exit.BAD_INPUT
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert told in refused.stderr


@pytest.mark.parametrize("arguments", [[], ["--data", "c"]])
def test_a_sweep_without_its_file_says_so(arguments: list[str]) -> None:
    refused = submitted(*arguments, SLURM_ARRAY_TASK_ID="0")
    assert refused.returncode == Exit.BAD_INPUT
    assert refused.stderr.startswith("error: the file of the tasks' arguments comes first")


def test_a_task_becomes_the_training_of_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sweep.txt"
    path.write_text("--optim.lr 1\n--optim.lr 2\n")
    became: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        os, "execvpe", lambda _, words, environ: became.append((words, environ["RUN_DIR"]))
    )
    job = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7", "RUN_DIR": "another"}
    for environ in (job, {**job, "SWEEP_DIR": str(tmp_path / "rates")}):
        task.main([str(path), "quickstart"], environ)
    for (words, run_dir), folder in zip(
        became, ["runs/sweep-7", str(tmp_path / "rates")], strict=True
    ):
        assert run_dir == f"{folder}/1"
        assert words[:2] == ["bash", str(ROOT / "launch" / "slurm" / "train.sbatch")]
        assert words[3] == Path(folder).name
        assert words[-2:] == ["--optim.lr", "2"]
