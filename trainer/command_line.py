"""What ``txl`` is told: the table of its commands, read by tyro."""

from collections.abc import Sequence
from typing import Any

import tyro

from trainer import commands, model_commands

_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs)


def parse_command(argv: Sequence[str]) -> Any:
    """The command that `argv` spells; prints help or what is wrong with it and exits, else."""
    plain: dict[str, Any] = {
        "prepare": commands.Prepare,
        "eval": model_commands.Eval,
        "generate": model_commands.Generate,
        "import": commands.Import,
        "export": commands.Export,
        "report": commands.Report,
        "recipes": commands.Recipes,
        "exit-codes": commands.ExitCodes,
    }
    groups: dict[str, dict[str, Any]] = {
        "corpus": {"verify": commands.Verify, "show": commands.ShowCorpus},
        "config": {"show": commands.Show, "schema": commands.Schema},
    }
    name = argv[0] if argv else ""
    if name in groups:
        return tyro.extras.subcommand_cli_from_dict(
            groups[name], prog=f"txl {name}", args=argv[1:], config=_STYLE
        )
    about = (
        "Language models that carry memory across text. Besides these: txl train RECIPE --data "
        "CORPUS … (the same as launch/train.py), txl corpus verify|show, txl config show|schema."
    )
    return tyro.extras.subcommand_cli_from_dict(
        plain, prog="txl", description=about, args=argv, config=_STYLE
    )
