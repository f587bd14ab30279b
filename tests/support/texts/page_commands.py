"""Commands that pages tell a reader to type, and what may be typed there."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from trainer.commands.checking import CheckModel
from trainer.commands.command_line import COMMANDS, parse_command
from trainer.commands.models import Eval
from trainer.commands.planning import Plan
from trainer.commands.reference.options import command_table
from trainer.commands.runs import Show
from trainer.config.command_line.arguments import (
    TrainArguments,
    parse_show,
    parse_train,
    train_flags,
)
from trainer.config.command_line.check_model import CHECK_OPTIONS, parse_check
from trainer.config.command_line.plan import PLAN_OPTIONS, parse_dry_run, parse_plan
from trainer.data.prepare.by_name.known_corpora import PG19, known_corpus
from trainer.errors import InputError

ROOT = Path(__file__).parents[3]
FOLDERS = ("", "launch", "ds_configs", "trainer", "tests")
#: Every page for people in the tree.
PAGES = sorted(
    page for folder in FOLDERS for page in (ROOT / folder).glob("**/*.md" if folder else "*.md")
)
#: Programs of others, whose options are not looked at, only the files of ours that they name.
OTHERS = {"docker", "apptainer", "sbatch", "srun", "pip", "uv", "wandb", "touch", "ls"}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Typed(NamedTuple):
    """A command of a page, without what stands for more words."""

    page: Path
    words: list[str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def fenced(page: Path) -> Iterator[Typed]:
    """Yield the commands in a page's blocks of shell, one after the other."""
    for _, language, block in FENCE.findall(page.read_text()):
        if language == "bash":
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    del words[0]
                if words:
                    yield Typed(page, _without_ellipsis(words))


def spans(page: Path) -> Iterator[str]:
    """Yield what a page's text, outside of its blocks, shows as code."""
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def _without_ellipsis(words: list[str]) -> list[str]:
    """Return words without an ellipsis that is no option's value."""
    before = ["", *words]
    return [w for w, b in zip(words, before, strict=False) if w != "…" or b.startswith("--")]


def check(words: list[str]) -> None:
    """Read a command as the program itself would; `InputError` or SystemExit if it cannot."""
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "txl":
        _check_txl(rest)
    elif program in ("deepspeed", "torchrun", "python"):
        _check_launched(program, rest)
    elif program == "bash":
        _check_script(rest)
    elif program in OTHERS:
        files = [word for word in rest if word.startswith(("launch/", "/txl/", "tests/"))]
        for file in files:
            assert (ROOT / file.removeprefix("/txl/")).is_file(), file
        training = [i for i, w in enumerate(rest) if w.endswith(("train.py", "train.sbatch"))]
        if training:
            parse_train(rest[training[0] + 1 :])
        sweep = [i for i, w in enumerate(rest) if w.endswith("sweep.sbatch")]
        if sweep:
            assert not rest[sweep[0] + 1].startswith("-"), "the file of its lines is missing"
            parse_train(rest[sweep[0] + 2 :])
    else:
        raise InputError(f"{program}: what this program takes is not known to this test")


def _check_txl(words: list[str]) -> None:
    if words[:1] == ["train"]:
        parse_train(words[1:])
        return
    command = parse_command(words)
    if isinstance(command, Show):
        parse_show(command.argv)
    if isinstance(command, CheckModel):
        parse_check(command.argv)
    if isinstance(command, Plan):
        parse_plan(command.argv)
    if isinstance(command, Eval):
        _ = command.mem_lens
    if getattr(command, "name", None) not in (None, PG19):
        known_corpus(command.name)


def _check_launched(program: str, words: list[str]) -> None:
    """Check the launcher's own options, then the script that it starts with its words."""
    at = next(i for i, word in enumerate(words) if word.endswith(".py") or word == "-m")
    own = {word.partition("=")[0] for word in words[:at] if word.startswith("-")}
    unknown = own - launcher_flags(program)
    assert not unknown, f"{program} has no {unknown}"
    script, rest = words[at], words[at + 1 :]
    if script == "-m":
        assert rest[0] in ("txl_trainer", "trainer"), rest[0]
        _check_txl(rest[1:])
        return
    file = ROOT / script.removeprefix("/txl/")
    assert file.is_file(), script
    if script.endswith("launch/train.py"):
        if parse_dry_run(rest, n_ranks=1) is None:
            parse_train(rest)
        return
    arms = [word for word in rest if re.match(r"\w+=\S+ ", word)]  # of a comparison
    for arm in arms:
        parse_show(shlex.split(arm.partition("=")[2]))
    ours, _, training = " ".join(word for word in rest if word not in arms).partition(" -- ")
    assert flags_of(ours) <= texts_in(file), f"{script}: {flags_of(ours) - texts_in(file)}"
    assert flags_of(training) <= set(train_flags()), training


def _check_script(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file(), words[0]
    if words[0] == "launch/multi_node.sh" and len(words) > 1:
        parse_train(words[2:])
    if words[0] == "tests/run.sh":
        assert all((ROOT / word).exists() for word in words[1:] if word[0] != "-")


def flags_of(text: str) -> set[str]:
    """Return the long options in a text."""
    return set(re.findall(r"(?<!\S)(--[a-z][\w.-]*)", text))


#: Those of lm_eval's options that pages name.
LM_EVAL = frozenset({"--help", "--model", "--model_args", "--tasks", "--batch_size"})


@cache
def flags_of_command(name: str) -> frozenset[str]:
    """Return the long options of a command of `txl`."""
    if name in ("train", "config show"):
        return frozenset({*train_flags(), "--world-size"})
    if name == "check-model":
        return frozenset({*train_flags(), *CHECK_OPTIONS})
    if name == "plan":
        return frozenset({*train_flags(), *PLAN_OPTIONS})
    if name == "lm-eval":
        return LM_EVAL
    rows = command_table(name, COMMANDS[name]).rows
    return frozenset({row[0].strip("`") for row in rows} | {"--help"})


@cache
def texts_in(file: Path) -> frozenset[str]:
    """Return every constant text in a file's source, and so every option that it takes."""
    nodes = ast.walk(ast.parse(file.read_text()))
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(value for value in constants if isinstance(value, str))


def launcher_flags(program: str) -> frozenset[str]:
    """Return the options of a launcher as it is installed."""
    if program == "python":
        return frozenset({"-m", "-c"})
    package, inner = {
        "deepspeed": ("deepspeed", "launcher/runner.py"),
        "torchrun": ("torch", "distributed/run.py"),
    }[program]
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return texts_in(Path(spec.origin).parent / inner)


def trained_by(words: list[str]) -> TrainArguments:
    """Return what a text of training options alone says of a recipe."""
    return parse_train(["wt103-base", "--data", "corpora/mine", "--run-dir", "runs/mine", *words])
