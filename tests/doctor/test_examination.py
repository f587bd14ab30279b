"""`txl doctor` tells a pair of ranks that is well from one with each thing that can be wrong."""

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from made_text import made_text
from pairs import TXL, Pair
from ranks import told_by_ranks
from training import Case

from trainer.config.command_line.arguments import parse_doctor
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.distributed import World
from trainer.doctor.checks import as_json, as_text, by_rank
from trainer.doctor.examination import examine
from trainer.errors import Exit
from trainer.launchers import complete_environ

HOST = socket.gethostname()
#: By what is wrong on rank 1: the check that finds it, and words of what it says.
WRONG = {
    "another corpus": ("agreement", "in its corpus: corpus is other "),
    "another version": ("agreement", "in its versions: torch is 1.0, there "),
    "a corpus that is not there": ("run", "rank 1 is refused: "),
    "an unshared folder": ("shared folder", f"rank 1 ({HOST}) does not see what rank 0 wrote in "),
    "a skewed clock": ("clocks", f"rank 1 ({HOST}) is 30.0 s ahead of rank 0"),
    "a full disk": ("disk", "cannot be written: No space left on device"),
}


def older(version: Callable[[str], str], name: str) -> str:
    """Return the version of a package, where another torch is installed."""
    return "1.0" if name == "torch" else version(name)


def later(now: Callable[[], float]) -> float:
    """Return the time on a clock that is half a minute ahead."""
    return now() + 30


def on_the_second(wrong: str, folder: Path, stack: ExitStack) -> dict[str, str]:
    """Make rank 1's process or command what is wrong; returns words to replace in its command."""
    if wrong == "another version":
        stack.enter_context(mock.patch("importlib.metadata.version", partial(older, version)))
    if wrong == "a skewed clock":
        stack.enter_context(mock.patch("time.time", partial(later, time.time)))
    if wrong == "a full disk":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        stack.enter_context(mock.patch("os.fsync", side_effect=full))
    return {
        "another corpus": {str(folder / "corpus"): str(folder / "other")},
        "a corpus that is not there": {str(folder / "corpus"): str(folder / "none")},
        "an unshared folder": {str(folder / "runs"): str(folder / "elsewhere")},
    }.get(wrong, {})


def examinations(world: World, folder: Path) -> dict[str, list[Any]]:
    """Return what a rank finds in a healthy pair, and in each of the others."""
    argv = json.loads((folder / "argv.json").read_text())
    found = {}
    for wrong in ("nothing", *WRONG):
        with ExitStack() as stack:
            other = on_the_second(wrong, folder, stack) if world.rank == 1 else {}
            arguments = parse_doctor([other.get(word, word) for word in argv])
            checks = examine(arguments, world, os.environ)
        found[wrong] = [as_text(checks), json.loads(as_json(checks))]
    return found


@pytest.fixture(scope="module")
def found(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "corpus").symlink_to(corpus)
    for name in ("runs", "elsewhere"):
        (folder / name).mkdir()
    text = folder / "other.txt"
    text.write_text(made_text("another mill", n_lines=300))
    prepare(PrepareOptions(out=folder / "other", train=(text,), valid=(text,), tokenizer="words"))
    argv = Case(folder / "runs", flags=["--model.cutoffs"]).argv(folder / "corpus")
    (folder / "argv.json").write_text(json.dumps(argv))
    return told_by_ranks(examinations, folder)


def test_a_pair_that_is_well_has_nothing_wrong(found: list[dict[str, list[Any]]]) -> None:
    text, values = found[0]["nothing"]
    assert values["is_well"], text
    assert "WRONG" not in text
    told = {check["name"]: check["told"] for check in values["checks"]}
    assert told["ranks"].startswith(f"2 on {HOST}, which met at 127.0.0.1:")
    assert "corpus, configuration, DeepSpeed file, versions, code" in told["agreement"]
    assert told["device"].startswith("CPU ")
    assert told["precision"].startswith("float32, ")
    assert told["collectives"].startswith("all_reduce, broadcast, barrier over gloo")
    assert told["shared folder"].endswith("written, and seen by all ranks")
    assert told.keys() >= {"software", "clocks", "memory", "disk"}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_with_rank_host_and_fix(
    found: list[dict[str, list[Any]]], wrong: str
) -> None:
    text, values = found[0][wrong]
    name, words = WRONG[wrong]
    bad = [check for check in values["checks"] if check["fix"]]
    assert [check["name"] for check in bad] == [name], text
    assert words in bad[0]["told"]
    assert f"WRONG  {name}" in text
    assert f"\n{name}: {bad[0]['fix']}" in text
    assert not values["is_well"]


def test_all_ranks_find_the_same(found: list[dict[str, list[Any]]]) -> None:
    for wrong in WRONG:
        first, second = (
            [(check["name"], bool(check["fix"])) for check in one[wrong][1]["checks"]]
            for one in found
        )
        assert first == second, wrong


def test_ranks_that_cannot_meet_say_where_each_tried_to(corpus: Path, tmp_path: Path) -> None:
    limit = ["--limits.distributed-timeout-s", "3"]
    argv = ["doctor", *Case(tmp_path / "run", flags=limit).argv(corpus)]
    closed = {"MASTER_PORT": complete_environ({})["MASTER_PORT"]}
    with Pair(argv, script=TXL, of_second=closed) as pair:
        assert pair.ended() == [Exit.BAD_INPUT, Exit.BAD_INPUT], pair.said
    first, second = pair.errors()
    assert "the 2 ranks did not meet at 127.0.0.1:" in first
    assert f"127.0.0.1:{closed['MASTER_PORT']} within 3 s: rank 1 ({HOST}): " in second
    assert not (tmp_path / "run").exists()


def test_ranks_that_found_the_same_are_told_together() -> None:
    assert by_rank(["a", "a"]) == "a"
    assert by_rank(["a", "b", "b", "b", "a"]) == "ranks 0, 4: a; ranks 1-3: b"
    assert by_rank(["a", "b"]) == "rank 0: a; rank 1: b"
