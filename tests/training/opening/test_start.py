"""A run begins with what its directory holds, or is refused on all ranks before it begins."""

import re
import shutil
from pathlib import Path

import pytest
from saved_checkpoints import contents
from training import Case, losses, run_cases

from trainer.config.command_line.arguments import parse_train
from trainer.config.recipe import parse_experiment
from trainer.errors import Exit
from trainer.training.opening.claim import CLAIM

#: What stands in the way in a run's directory: a folder where a file goes, or a file for a folder.
FOLDERS = (
    "metrics.jsonl",
    "status.json",
    "command.txt",
    "ds_config.json",
    "environment.json",
    "logs/rank-00000.log",
    "logs/rank-00001.log",
)
FILES = ("logs", "checkpoints")
LONGER = ["--train.max-steps", "8", "--allow-change", "train.max_steps"]


@pytest.fixture(scope="module")
def refused(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, str]]:
    """Train two ranks in directories with something in the way; return what they were told."""
    folder = tmp_path_factory.mktemp("start")
    cases = {}
    for name in (*FOLDERS, *FILES):
        case = Case(folder / name.replace("/", " of "), ends=Exit.BAD_INPUT)
        in_the_way = case.run_dir / name
        in_the_way.parent.mkdir(parents=True)
        if name in FOLDERS:
            in_the_way.mkdir()
        else:
            in_the_way.touch()
        experiment = parse_train(case.argv(corpus)).experiment
        (case.run_dir / "config.json").write_text(experiment.model_dump_json())
        cases[name] = case
    told = run_cases(list(cases.values()), corpus=corpus, n_ranks=2)
    return {name: (case, said) for (name, case), said in zip(cases.items(), told, strict=True)}


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_what_cannot_be_written_is_named_in_one_line(
    refused: dict[str, tuple[Case, str]], name: str
) -> None:
    case, said = refused[name]
    assert re.match(re.escape(f"{case.run_dir / name} cannot be ") + "(written|read): ", said), said
    assert "\n" not in said
    status = case.left["status"]
    assert status is None or status["state"] == "failed"


class Left:
    """Runs that go on with what an earlier attempt left, spoilt in one way or another."""

    def __init__(self, trained: Path, folder: Path) -> None:
        self.trained, self.folder = trained, folder
        self.cases: dict[str, Case] = {}
        self.before: dict[str, dict[str, bytes]] = {}
        self.told: dict[str, str] = {}

    def add(self, name: str, *flags: str, ends: Exit = Exit.DONE) -> Path:
        """Return a copy of a run of six steps, to be spoilt before it goes on."""
        run_dir = self.folder / name
        shutil.copytree(self.trained, run_dir)
        self.cases[name] = Case(run_dir, flags=[*LONGER, *flags], ends=ends)
        return run_dir

    def run(self, corpus: Path) -> None:
        for name, case in self.cases.items():
            self.before[name] = contents(case.run_dir)
        told = iter(run_cases(list(self.cases.values()), corpus=corpus, n_ranks=1))
        refused = [name for name, case in self.cases.items() if case.ends is Exit.BAD_INPUT]
        self.told = dict(zip(refused, told, strict=True))


@pytest.fixture(scope="module")
def left(trained: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    left = Left(trained, tmp_path_factory.mktemp("left"))
    left.add("whole")
    cut = left.add("power cut")
    (cut / "status.json").write_bytes(bytes(300))
    (cut / "config.json").write_bytes((cut / "config.json").read_bytes()[:300])
    (left.add("config lost") / "config.json").unlink()
    (left.add("another seed", "--seed", "2", ends=Exit.BAD_INPUT) / "config.json").write_bytes(b"{")
    logged = left.folder / "logged"
    logged.mkdir()
    (logged / "train.log").write_text("said so far\n")
    left.cases["logged"] = Case(logged, flags=["--train.max-steps", "5"])
    left.run(corpus)
    return left


@pytest.mark.parametrize("name", ["power cut", "config lost"])
def test_what_a_whole_checkpoint_holds_is_enough_to_go_on(left: Left, name: str) -> None:
    run_dir = left.cases[name].run_dir
    assert losses(run_dir) == losses(left.cases["whole"].run_dir)
    assert list(losses(run_dir)) == list(range(1, 9))
    mended = parse_experiment((run_dir / "config.json").read_bytes(), where="config.json")
    assert mended.train.max_steps == 8


def test_a_checkpoint_also_says_what_the_run_is_not(left: Left) -> None:
    assert "seed 1111, not 2" in left.told["another seed"]
    assert contents(left.cases["another seed"].run_dir) == left.before["another seed"]


def test_a_directory_that_holds_a_log_becomes_a_run(left: Left) -> None:
    run_dir = left.cases["logged"].run_dir
    assert list(losses(run_dir)) == [1, 2, 3, 4, 5]
    assert (run_dir / "train.log").read_text() == "said so far\n"


def test_no_run_that_has_ended_is_claimed(left: Left) -> None:
    assert list(left.folder.glob(f"*/{CLAIM}")) == []
