"""What a run would begin with is told, or refused, without a trace."""

from pathlib import Path

import pytest
from saved_checkpoints import contents
from training import Case

from trainer.config.command_line.arguments import parse_train
from trainer.errors import InputError
from trainer.launchers import complete_environ
from trainer.training.opening.dry_run import describe_start
from trainer.training.opening.plan import make_plan

#: The flags of the fixture `trained`, as far as a resumed run may not change them.
SAME = ["--train.max-steps", "6", "--sample.prompt", "the miller"]


def dry_run(corpus: Path, run_dir: Path, *flags: str) -> dict[str, object]:
    argv = Case(run_dir, flags=[*SAME, *flags, "--dry-run"]).argv(corpus)
    return describe_start(make_plan(parse_train(argv), complete_environ({})))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--train.max-steps", "9"], "train.max_steps 6"),
        (["--seed", "2", "--train.tgt-len", "9"], "is another run's: seed 1111"),
        (["--resume", "never"], "has checkpoints"),
        (["--train.tgt-len", "6000"], "longer than a stream"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_and_changes_nothing(
    corpus: Path, trained: Path, flags: list[str], told: str
) -> None:
    before = contents(trained)
    with pytest.raises(InputError, match=told):
        dry_run(corpus, trained, *flags)
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--resume", "must"], "has no checkpoint"),
        (["--init-from", "nowhere"], "no checkpoint here"),
        (["--tracking.wandb", "online"], "no key"),
    ],
)
def test_a_new_run_is_refused_before_its_directory_is_made(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], told: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=told):
        dry_run(corpus, tmp_path / "run", *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_or_is_no_run_s_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for run_dir, told in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / "other", "holds something that is no run"),
    ):
        with pytest.raises(InputError, match=told):
            dry_run(corpus, run_dir)


def test_a_dry_run_says_what_the_run_begins_with(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    new, forked, done = tmp_path / "new", tmp_path / "fork", dry_run(corpus, trained)
    assert dry_run(corpus, new)["from"] == "the beginning"
    longer = ["--train.max-steps", "9", "--allow-change", "train.max_steps"]
    going_on = dry_run(corpus, trained, *longer)
    fork = dry_run(corpus, forked, *longer, "--resume-from", str(trained))
    weights = dry_run(corpus, new, "--init-from", str(trained / "checkpoints" / "step-00000004"))
    assert (done["is_done"], going_on["is_done"], fork["is_done"]) == (True, False, False)
    assert str(going_on["changes"]).startswith("['train.max_steps 6")
    newest = str((trained / "checkpoints" / "step-00000006").resolve())
    assert (going_on["from"], fork["from"]) == (newest, newest)
    assert str(weights["from"]).endswith("step-00000004")
    assert not new.exists()
    assert not forked.exists()
