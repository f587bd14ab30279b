"""A directory is a run's, or free to become one, or says what is in the way."""

import re
from pathlib import Path

import pytest

from trainer.config.recipe import load_recipe
from trainer.errors import InputError
from trainer.training.opening import rundir
from trainer.training.opening.claim import CLAIM, DRAFT

QUICKSTART = load_recipe("quickstart")


def check(run_dir: Path) -> None:
    rundir.check(run_dir, QUICKSTART, allowed=())


@pytest.mark.parametrize(
    "name",
    [
        "train.log",
        "slurm-17.out",
        "slurm-17_3.out",
        "txl-17.out",
        "nohup.out",
        "train.err",
        ".nfs000000000a1b2c3d",
        ".config.json.123",
    ],
)
def test_what_a_shell_or_a_start_that_was_killed_left_is_in_nobodys_way(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("said so far\n")
    for folder in ("logs", CLAIM, f"{DRAFT}0", "lost+found"):
        (tmp_path / folder).mkdir()
    check(tmp_path)
    assert (tmp_path / name).read_text() == "said so far\n"


def test_the_version_of_what_is_not_installed_is_not_known() -> None:
    assert rundir._version("pytest") == pytest.__version__
    assert rundir._version("no-such-package") is None


def a_file(path: Path) -> None:
    path.touch()


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("thesis.txt", a_file),
        ("thesis.log.tex", a_file),
        (".ssh", a_folder),
        ("x.log", a_link),
        ("x.log", a_folder),
        ("checkpoints", a_folder),
        ("logs", a_file),
        ("log\x1b[2J", a_file),
    ],
)
def test_what_else_is_in_the_way_is_named(tmp_path: Path, name: str, make) -> None:
    (tmp_path / "train.log").touch()
    make(tmp_path / name)
    shown = re.escape(name.replace("\x1b", "\\x1b"))
    with pytest.raises(InputError, match=f"holds something that is no run, {shown}: give another"):
        check(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", bytes(99), b"[]", b"null", b"\xff\xfe", b"[" * 99999])
def test_a_config_that_cannot_be_read_is_a_runs_only_if_a_run_is_beside_it(
    tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(InputError, match=r"config\.json.*: give another --run-dir"):
        check(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    check(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == text


def test_a_run_of_another_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(QUICKSTART.model_dump_json())
    check(tmp_path)
    (tmp_path / "config.json").write_text(load_recipe("enwik8-base").model_dump_json())
    with pytest.raises(InputError, match="is another run's"):
        check(tmp_path)


def test_default_names_are_the_recipes_and_the_times_and_never_end_soon() -> None:
    names = list(rundir.default_run_dirs("recipes/mine.json", now=0.0))
    assert re.fullmatch(r"runs/mine-\d{8}-\d{6}", str(names[0]))
    assert str(names[1]) == f"{names[0]}-2"
    assert len(set(names)) == len(names) > 100
