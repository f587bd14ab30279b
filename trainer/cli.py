"""The console command ``txl``, and the training command that ``launch/train.py`` is."""

import logging
import os
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import tyro

from trainer import commands, model_commands
from trainer.errors import Exit, InputError
from trainer.outside import printable

_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.CascadeSubcommandArgs)
#: Characters of a line of an error that are printed: enough for every field that does not fit.
_SHOWN = 4000


def train_main(argv: Sequence[str], environ: MutableMapping[str, str]) -> int:
    """One process of a training job; `launch/train.py` is this and nothing else."""
    try:
        import torch

        from trainer.arguments import parse_train

        arguments = parse_train(argv)
        if arguments.device == "cpu" or not torch.cuda.is_available():
            environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks once, when it is imported
        from trainer.session import run_training

        return int(run_training(arguments, environ))
    except InputError as error:
        return _refuse(error, environ)


def main() -> None:
    """Entry point of ``txl``; exits with a code of `Exit`."""
    argv = [arg for arg in sys.argv[1:] if not arg.startswith("--local_rank")]
    if argv[:1] == ["train"]:
        sys.exit(train_main(argv[1:], os.environ))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        parse_command(argv).run()
    except InputError as error:
        sys.exit(_refuse(error, os.environ))
    except OSError as error:
        if error.filename is None:
            raise
        problem = InputError(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}")
        sys.exit(_refuse(problem, os.environ))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(Exit.ABORTED)


def _refuse(error: InputError, environ: Mapping[str, str]) -> int:
    """Say it once, however many ranks were asked the same."""
    if environ.get("RANK", environ.get("SLURM_PROCID", "0")) == "0":
        shown = (printable(line, most=_SHOWN) for line in error.lines)
        print("error: " + "\n".join(shown), file=sys.stderr)
    else:
        time.sleep(3)  # a launcher ends all ranks with the first: let rank 0 speak
    return int(Exit.BAD_INPUT)


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
