"""Paths typed in a shell, and commands printed for a user to type again."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed_path(text: str | Path) -> Path:
    """Return the path that `text` means, with ``~`` and ``~name`` replaced by homes.

    A shell does not replace them in ``--out=~/x``. A ``~name`` that no user has stays as it is.
    """
    return Path(os.path.expanduser(text))


def command(*words: str | Path) -> str:
    """Return the command of these `words`, quoted so that a shell reads the same words."""
    return " ".join(_quoted(str(word)) for word in words)


def program(name: str) -> str:
    """Return how to call the program `name` of this environment from the user's shell.

    The name is enough if the shell's path leads to this program; otherwise its path is returned.
    """
    ours = Path(sys.executable).with_name(name)
    on_path = shutil.which(name)
    if not ours.is_file() or (on_path is not None and os.path.samefile(on_path, ours)):
        return name
    return str(_from_here(ours))


def training(*words: str | Path) -> str:
    """Return the command that trains with these `words`: a checkout's or the installed one."""
    script = Path(__file__).parents[1] / "launch" / "train.py"
    if script.is_file():
        return command(program("deepspeed"), _from_here(script), *words)
    return command(program("txl"), "train", *words)


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    spelt = (_escaped(character) for character in word)
    return f"$'{''.join(spelt)}'"  # bash, zsh and ksh read this


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
