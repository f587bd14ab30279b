"""Reading the command line of ``txl``: its commands, and how words become values."""

import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from trainer.commands import (
    checking,
    checkpoints,
    corpora,
    doctor,
    exchange,
    inspecting,
    models,
    planning,
    reports,
    runs,
)
from trainer.errors import InputError, did_you_mean
from trainer.shell import typed_path
from trainer.wording import printable_lines

#: The commands in the order of a model's life; ``train`` is read in `trainer.config.command_line`.
COMMANDS: dict[str, Any] = {
    "prepare": corpora.Prepare,
    "corpus show": corpora.ShowCorpus,
    "corpus verify": corpora.Verify,
    "recipes": runs.Recipes,
    "config show": runs.Show,
    "config schema": runs.Schema,
    "doctor": doctor.Doctor,
    "plan": planning.Plan,
    "check-model": checking.CheckModel,
    "train": None,
    "watch": reports.Watch,
    "report": reports.Report,
    "compare": reports.Compare,
    "inspect": inspecting.Inspect,
    "checkpoint list": checkpoints.List,
    "checkpoint verify": checkpoints.Verify,
    "checkpoint prune": checkpoints.Prune,
    "eval": models.Eval,
    "score": models.Score,
    "generate": models.Generate,
    "lm-eval": exchange.LmEval,
    "export": exchange.Export,
    "import": exchange.Import,
    "exit-codes": runs.ExitCodes,
    "reference": runs.Reference,
}
#: The commands that read their words themselves.
_READERS = (runs.Show, doctor.Doctor, planning.Plan, checking.CheckModel, exchange.LmEval)
_ABOUT_TRAIN = "Train RECIPE on a corpus: the same as launch/train.py."
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class _Told:
    """A command that only prints a text."""

    text: str

    def run(self) -> None:
        """Print the text."""
        print(self.text)


def parse_command(argv: Sequence[str]) -> Any:
    """Return the command in `argv`; for ``--help`` or a wrong word, print and exit.

    Raises:
        InputError: no command has the name.
    """
    if argv and argv[0].startswith("--tyro-"):  # completion for shells
        return _of_all(argv)
    name = next((n for n in COMMANDS if list(argv[: n.count(" ") + 1]) == n.split()), None)
    if name is not None:
        return _parsed(name, argv[name.count(" ") + 1 :])
    word = argv[0] if argv else ""
    if word == "--version":
        return _Told(f"txl {metadata.version('txl-trainer')}")
    group = f"{word} " if any(n.startswith(f"{word} ") for n in COMMANDS) else ""
    if set(argv[:2] if group else argv[:1]) & {"-h", "--help"}:
        return _Told(_overview(group))
    said = " ".join(argv[: 2 if group else 1])
    if said == group.strip():
        names = ", ".join(name for name in COMMANDS if name.startswith(group))
        raise InputError(f"txl: the command is missing: one of {names} (txl --help tells of them)")
    hint = did_you_mean(said, COMMANDS)
    raise InputError(f"txl {said}: no such command{hint} (txl --help lists them)")


def _overview(begin: str) -> str:
    """Return a text that lists the commands whose names begin with `begin`, a line each."""
    about = {n: (c.__doc__ if c else _ABOUT_TRAIN).partition("\n")[0] for n, c in COMMANDS.items()}
    lines = [f"  {name:17} {line}" for name, line in about.items() if name.startswith(begin)]
    return "\n".join(
        [
            f"usage: txl {begin}COMMAND …",
            "",
            "Language models that carry memory across text.",
            "",
            *lines,
            "",
            "txl COMMAND --help tells more; txl --version says which this is.",
        ]
    )


def _parsed(name: str, argv: Sequence[str]) -> Any:
    command = COMMANDS[name]
    if command in _READERS:
        return command(tuple(argv))
    parsed = _quoting_safely(
        lambda: tyro.cli(
            command,
            prog=f"txl {name}",
            args=_with_booleans(command, argv),
            config=_STYLE,
            registry=_types(),
        )
    )
    return _reference() if command is runs.Reference else parsed


def _reference() -> _Told:
    """Return the reference, which tells of all commands, of itself too."""
    from trainer.commands.reference.page import page

    return _Told(page(COMMANDS).rstrip())


def _of_all(argv: Sequence[str]) -> Any:
    """Let tyro read all commands at once, for completion."""
    plain = {name: command for name, command in COMMANDS.items() if command and " " not in name}
    return tyro.extras.subcommand_cli_from_dict(
        plain, prog="txl", args=argv, config=_STYLE, registry=_types()
    )


def _quoting_safely(parse: Callable[[], Any]) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    finally:  # tyro prints words unescaped
        sys.stderr.write(printable_lines(said.getvalue()))


def _with_booleans(command: Any, argv: Sequence[str]) -> list[str]:
    """Return words for tyro, which takes neither ``--flag True`` nor ``--flag False``."""
    kinds = {f"--{n.strip('_').replace('_', '-')}": k for n, k in get_type_hints(command).items()}
    words = list(argv)
    for place in reversed(range(len(words))):
        head, equals, value = words[place].partition("=")
        kind = kinds.get(head.replace("_", "-"))
        following = value if equals else " ".join(words[place + 1 : place + 2])
        given = {"true": "True", "false": "False"}.get(following.lower())
        end = place + 1 + (given is not None and not equals)
        if kind is bool and given is not None:
            words[place:end] = [head] if given == "True" else []
        elif kind == bool | None and following != "None":
            words[place:end] = [head, given or "True"]
    return words


def _types() -> ConstructorRegistry:
    """Return tyro's rules for values, changed for homes in paths and for None."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_path)
    registry.primitive_rule(_optional)
    return registry


def _path(wanted: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if wanted.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: typed_path(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _optional(wanted: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Return a rule that reads an optional value as its type, without None in the placeholder."""
    kinds = get_args(wanted.type)
    if len(kinds) != 2 or type(None) not in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not type(None))
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, wanted.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError):
        return None
    return PrimitiveConstructorSpec(
        nargs=inner.nargs,
        metavar=inner.metavar,
        instance_from_str=lambda words: (
            None if words == ["None"] else inner.instance_from_str(words)
        ),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: (
            ["None"] if value is None else inner.str_from_instance(value)
        ),
        choices=inner.choices,
    )
