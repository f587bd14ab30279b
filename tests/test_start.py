"""A run that cannot write in its directory is refused on all ranks, before it begins."""

import re
from pathlib import Path

import pytest
from training import Case, run_cases

from trainer.arguments import parse_train
from trainer.errors import Exit

#: What stands in the way in a run's directory: a folder where a file goes, or a file for a folder.
FOLDERS = (
    "metrics.jsonl", "status.json", "command.txt", "ds_config.json", "environment.json",
    "logs/rank-00000.log", "logs/rank-00001.log",
)  # fmt: skip
FILES = ("logs", "checkpoints")


@pytest.fixture(scope="module")
def refused(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, str]]:
    """Runs of two ranks in directories with something in the way, and what they were told."""
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
