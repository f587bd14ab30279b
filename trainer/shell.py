"""Paths as they are typed in a shell, and commands printed to be typed again."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def typed_path(text: str | Path) -> Path:
    """The path that `text` means, ``~`` and ``~name`` being homes also where no shell saw to it.

    It sees to none in ``--out=~/x``. As with a shell, where nobody has the name it stands as it is.
    """
    return Path(os.path.expanduser(text))


def command(*words: str | Path) -> str:
    """Spell the command of these `words` so that a shell reads them again, whatever they hold."""
    return " ".join(_quoted(str(word)) for word in words)


def program(name: str) -> str:
    """Spell the program `name` of this environment as the reader's shell finds it.

    That is by its name where the shell's path leads to this one, else by its place.
    """
    ours = Path(sys.executable).with_name(name)
    on_path = shutil.which(name)
    if not ours.is_file() or (on_path is not None and os.path.samefile(on_path, ours)):
        return name
    return str(_from_here(ours))


def training(*words: str | Path) -> str:
    """Spell the command that trains with these `words`: the checkout's, or an installed one."""
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
    return f"$'{''.join(spelt)}'"  # which bash, zsh and ksh read


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
