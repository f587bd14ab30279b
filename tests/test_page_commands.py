"""What the pages tell a reader to type can be typed: commands, options, recipes, files."""

import re
import shlex
from pathlib import Path

import pytest
from page_commands import (
    PAGES,
    ROOT,
    Typed,
    check,
    fenced,
    flags_of,
    flags_of_command,
    spans,
    texts_in,
    trained_by,
)
from readme_model import write_readme_model

from trainer.commands.command_line import COMMANDS
from trainer.config.command_line.arguments import train_flags
from trainer.config.recipe import recipe_names
from trainer.errors import InputError

TYPED = [typed for page in PAGES for typed in fenced(page)]
#: Options of programs of others that pages speak of.
SLURM = {"--partition", "--account", "--gpus-per-node", "--gpus-per-task", "--ntasks-per-node"}
FOREIGN = {*SLURM, "--signal", "--constraint", "--strict", "--nv"}
#: A page of the options of other trainers.
NOT_OURS = ROOT / "trainer" / "config" / "MIGRATING.md"


@pytest.fixture(autouse=True)
def _factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the factories that pages name importable, as a reader of the pages has them."""
    write_readme_model(tmp_path)
    (tmp_path / "package.py").write_text("def build(config, vocabulary_size): ...\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("typed", TYPED, ids=str)
def test_a_command_of_a_page_can_be_read(typed: Typed) -> None:
    check(typed.words)


@pytest.mark.parametrize(
    "line",
    [
        "txl evaluate runs/mine",
        "txl eval runs/mine --memlen 0",
        "txl eval runs/mine --mem-len a,b",
        "txl prepare enwik9 --out corpora/x",
        "txl config show wt103-bas",
        "deepspeed launch/train.py wt103-basis --data corpora/mine",
        "deepspeed launch/training.py wt103-base --data corpora/mine",
        "deepspeed --gpus_of_node 2 launch/train.py wt103-base --data corpora/mine",
        "torchrun --nproc_per_node 4 -m txl_trainer eval runs/mine --memory 3",
        "python launch/train.py quickstart --data x --train.max-step 3",
        "python tests/benchmarks/card.py --output card.json",
        "bash launch/quickstarts.sh",
        "bash launch/multi_node.sh hosts wt103-base",
        "sbatch --nodes=2 launch/slurm/train.sbatch wt103-base --data x --optim.lrs 3",
        "sbatch --array=0-3 launch/slurm/sweep.sbatch lines.txt wt103-base --data x --optim.lrs 3",
        "sbatch --array=0-3 launch/slurm/sweep.sbatch --data x",
        "docker build -f launch/Containerfile .",
        "unheard of",
    ],
)
def test_a_command_that_is_wrong_is_found(line: str) -> None:
    with pytest.raises((AssertionError, InputError, SystemExit)):
        check(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_an_option_in_a_page_s_text_exists(page: Path) -> None:
    rooms = ("tests/benchmarks/**", "tests/mutation", "tests/soak", "tests/supply", "launch")
    scripts = [script for room in rooms for script in ROOT.glob(f"{room}/*.py")]
    known = {flag for name in COMMANDS for flag in flags_of_command(name)}
    known |= {"--version", "--tyro-print-completion", "--model.options.NAME", *FOREIGN}
    known |= {flag.partition(".")[0] for flag in train_flags()}
    known |= {text for script in scripts for text in texts_in(script) if text.startswith("--")}
    for span in spans(page):
        words = span.removeprefix(".venv/bin/").split()
        if words[:1] == ["txl"]:
            name = next((n for n in COMMANDS if words[1 : 2 + n.count(" ")] == n.split()), None)
            allowed = flags_of_command(name) if name else {"--help", "--version", *known}
            assert flags_of(span) <= allowed, span
        elif page != NOT_OURS:
            assert {flag.partition("=")[0] for flag in flags_of(span)} <= known, span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_in_a_page_s_text_have_values_that_they_take(page: Path) -> None:
    for span in spans(page):
        words = shlex.split(span) if re.match("--[a-z]", span) else []
        flags = flags_of(span)
        if (
            len(words) > len(flags)
            and flags <= {*train_flags()}
            and not re.search("[A-Z…]{2}", span)
        ):
            trained_by(words)


def test_the_front_page_names_every_recipe_and_command() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in recipe_names() if f"`{name}`" not in text] == []
    assert [name for name in COMMANDS if f"txl {name}" not in text] == []
