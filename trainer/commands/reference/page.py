"""The page of the reference: its chapters, and their text in Markdown."""

from collections.abc import Mapping
from typing import Any

from trainer.commands.reference.environment import environment_table
from trainer.commands.reference.options import command_table, flag_table
from trainer.commands.reference.records import file_tables, record_tables
from trainer.commands.reference.settings import deepspeed_tables, recipe_tables
from trainer.commands.reference.tables import Chapter, Table, code, link
from trainer.config.command_line.arguments import DOCTOR_OPTIONS, SHOW_OPTIONS, TRAIN_OPTIONS
from trainer.config.command_line.check_model import CHECK_OPTIONS, TARGET
from trainer.config.command_line.plan import PLAN_OPTIONS
from trainer.errors import Exit

_ABOUT = """\
# Reference

Every exit code, option, setting and number, as the code has them: `txl reference` prints this page,
and a test compares it with the file. The guides are in the [README](../README.md#guides).
"""
_SETTINGS = "Every [setting](#settings-of-a-run) is a flag, too."
_RECIPE = {"RECIPE": {"help": "a packaged recipe, or a JSON file", "required": True}}
_ON_RESUME = """\
*Default* is what holds where a recipe says nothing. *On resume* says what happens to a setting \
that differs from the checkpoint's: `free` ones may, `announced` ones need `--allow-change FIELD`, \
`refused` ones end the command with code 2."""
_OWNER = """\
What has an *owner* in the recipe is left out or `"auto"` here; a value that differs from the \
owner's is an error. `null`, like a key that is left out, leaves a value to DeepSpeed. Keys not \
named here are refused."""


def chapters(commands: Mapping[str, Any]) -> list[Chapter]:
    """Return all of the reference; `commands` are those of `txl`, by name."""
    return [
        Chapter(
            "Exit codes", "Launchers change them: see [launch/](../launch/README.md).", codes()
        ),
        Chapter("Commands", "A flag takes a value, or stands alone.", _command_tables(commands)),
        Chapter(
            "Settings of a run",
            "What is trained: fields of a recipe, and flags of `launch/train.py` and "
            f"`txl config show`. {_ON_RESUME}",
            recipe_tables(),
        ),
        Chapter(
            "DeepSpeed files",
            f"How it is trained: see [ds_configs/](../ds_configs/README.md). {_OWNER}",
            deepspeed_tables(),
        ),
        Chapter(
            "Environment variables",
            "What a user may set; launchers set the others.",
            [environment_table()],
        ),
        Chapter(
            "Metrics and events",
            "Lines of `metrics.jsonl`. A number that is not finite is null.",
            record_tables(),
        ),
        Chapter("Other files", "Beside them in the run directory.", file_tables()),
    ]


def page(commands: Mapping[str, Any]) -> str:
    """Return the reference as Markdown."""
    parts = chapters(commands)
    links = [f"- {_links(part)}" for part in parts]
    lines = [*_ABOUT.splitlines(), "", *links, ""]
    return "\n".join([*lines, *(line for part in parts for line in part.lines())]).rstrip() + "\n"


def _links(part: Chapter) -> str:
    inner = " · ".join(link(table.title) for table in part.tables if table.title)
    return f"{link(part.title)}: {inner}" if inner else link(part.title)


def codes() -> list[Table]:
    """Return the table of exit codes."""
    rows = [(code(exit_code.value), exit_code.describe()) for exit_code in Exit]
    return [Table("", ("code", "meaning"), rows)]


def _command_tables(commands: Mapping[str, Any]) -> list[Table]:
    tables = []
    for name, command in commands.items():
        if name == "train":
            about = f"Train RECIPE on a corpus: the same as `launch/train.py`. {_SETTINGS}"
            tables.append(flag_table(f"txl {name}", _RECIPE | TRAIN_OPTIONS, text=about))
        elif name in ("config show", "plan"):
            about = f"{command.__doc__} {_SETTINGS}"
            options = SHOW_OPTIONS if name == "config show" else PLAN_OPTIONS
            tables.append(flag_table(f"txl {name}", _RECIPE | options, text=about))
        elif name == "check-model":
            about = f"{command.__doc__} {_SETTINGS}"
            tables.append(flag_table(f"txl {name}", TARGET | CHECK_OPTIONS, text=about))
        elif name == "doctor":
            about = f"{command.__doc__} All of a training command may follow: ranks are compared."
            tables.append(flag_table(f"txl {name}", DOCTOR_OPTIONS, text=about))
        else:
            tables.append(command_table(name, command))
    return tables
