"""What ``txl`` is told: the table of its commands, read by tyro."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from trainer.commands import corpora, exchange, models, runs
from trainer.shell import typed_path
from trainer.wording import printable_lines

_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs)


def parse_command(argv: Sequence[str]) -> Any:
    """The command that `argv` spells; prints help or what is wrong with it and exits, else."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return _parsed(argv)
    finally:  # tyro quotes words as they are
        sys.stderr.write(printable_lines(said.getvalue()))


def _parsed(argv: Sequence[str]) -> Any:
    plain: dict[str, Any] = {
        "prepare": corpora.Prepare,
        "eval": models.Eval,
        "generate": models.Generate,
        "import": exchange.Import,
        "export": exchange.Export,
        "report": runs.Report,
        "recipes": runs.Recipes,
        "exit-codes": runs.ExitCodes,
    }
    groups: dict[str, dict[str, Any]] = {
        "corpus": {"verify": corpora.Verify, "show": corpora.ShowCorpus},
        "config": {"show": runs.Show, "schema": runs.Schema},
    }
    name = argv[0] if argv else ""
    if name in groups:
        return tyro.extras.subcommand_cli_from_dict(
            groups[name], prog=f"txl {name}", args=argv[1:], config=_STYLE, registry=_types()
        )
    about = (
        "Language models that carry memory across text. Besides these: txl train RECIPE --data "
        "CORPUS … (the same as launch/train.py), txl corpus verify|show, txl config show|schema."
    )
    return tyro.extras.subcommand_cli_from_dict(
        plain, prog="txl", description=about, args=argv, config=_STYLE, registry=_types()
    )


def _types() -> ConstructorRegistry:
    """How what is typed becomes values: as tyro does it, but for the homes in paths."""
    registry = ConstructorRegistry()
    registry.primitive_rule(_path)
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
