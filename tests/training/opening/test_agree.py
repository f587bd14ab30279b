"""Ranks that would not train the same are refused, all of them, with rank, host and difference."""

import json
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from pairs import Pair
from ranks import told_by_ranks
from training import ROOT, Case

from trainer.config.command_line.arguments import parse_train
from trainer.distributed import World
from trainer.errors import Exit, InputError
from trainer.training.opening import agree
from trainer.training.opening.plan import make_plan

HOST = socket.gethostname()
#: What rank 1 has otherwise: the part of the facts, a name in it, and its value.
PLANTED = {
    "corpus": ("corpus", "stories 0123456789ab"),
    "configuration": ("optim.lr", "0.5"),
    "DeepSpeed file": ("zero_optimization.stage", "2"),
    "versions": ("torch", "2.0.0"),
    "code": ("trainer/training/loop.py", "0123456789ab"),
    "model factory": ("lstm:build", "0123456789ab"),
}


def refusals(world: World, folder: Path) -> dict[str, str]:
    """Return what a rank is told of each difference; a file has the facts, as a plan has them."""
    facts = json.loads((folder / "facts.json").read_text())
    told = {}
    for part, planted in {"nothing": None, **PLANTED}.items():
        own = {name: dict(values) for name, values in facts.items()}
        if planted is not None and world.rank == 1:
            own[part][planted[0]] = planted[1]
        try:
            agree.refuse_different(own, world)
            told[part] = ""
        except InputError as error:
            told[part] = str(error)
    return told


@pytest.fixture(scope="module")
def facts(corpus: Path) -> agree.Facts:
    """Return what a run of the tests' corpus is compared by."""
    case = Case(Path("nowhere"), flags=["--model.factory", "whole_model:build"])
    environ = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    plan = make_plan(parse_train(case.argv(corpus)), environ | {"MASTER_PORT": "1"})
    return agree.facts_of_run(plan)


@pytest.fixture(scope="module")
def told(facts: agree.Facts, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("agree")
    (folder / "facts.json").write_text(json.dumps(facts))
    return told_by_ranks(refusals, folder)


def test_what_is_compared_is_all_that_a_run_depends_on(facts: agree.Facts, corpus: Path) -> None:
    assert facts.keys() == PLANTED.keys()
    assert facts["configuration"]["train.train_batch_size"] == "8"
    assert facts["DeepSpeed file"]["train_micro_batch_size_per_gpu"] == "8"
    assert facts["versions"]["torch"] == metadata.version("torch")
    n_sources = sum(1 for _ in (ROOT / "trainer").rglob("*.py"))
    assert len(facts["code"]) == n_sources
    assert all(len(value) == 12 for value in facts["code"].values())
    assert len(facts["model factory"]["whole_model:build"]) == 12


def test_ranks_that_have_the_same_are_not_refused(told: list[Any]) -> None:
    assert [one["nothing"] for one in told] == ["", ""]


@pytest.mark.parametrize("part", PLANTED)
def test_each_difference_is_one_error_on_all_ranks_with_rank_host_and_fix(
    told: list[Any], facts: agree.Facts, part: str
) -> None:
    first, second = (one[part] for one in told)
    assert first == second
    name, value = PLANTED[part]
    there = facts[part].get(name, "missing")
    assert f"rank 1 ({HOST}) differs from rank 0 ({HOST}) in its {part}: " in first
    assert f"{name} is {value}, there {there}" in first
    assert first.rpartition("; ")[2] == agree._FIXES[part]


def test_what_only_another_host_lacks_is_said_by_the_first_rank_and_nothing_is_written(
    corpus: Path, tmp_path: Path
) -> None:
    case = Case(tmp_path / "run")
    argv = case.argv(corpus)
    elsewhere = [str(tmp_path / "none") if word == str(corpus) else word for word in argv]
    with Pair(argv, elsewhere) as pair:
        assert pair.ended() == [Exit.BAD_INPUT, Exit.BAD_INPUT], pair.said
    (line,) = pair.errors()
    assert line.startswith(f"error: rank 1 ({HOST}): {tmp_path / 'none'}")
    assert not case.run_dir.exists()
