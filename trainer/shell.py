"""What goes through a shell: paths as they are typed, and commands printed to be typed again."""

import os
import shlex
from pathlib import Path


def typed_path(text: str | Path) -> Path:
    """The path that `text` means, ``~`` and ``~name`` being homes also where no shell saw to it.

    It sees to none in ``--out=~/x``. As with a shell, where nobody has the name it stands as it is.
    """
    return Path(os.path.expanduser(text))


def command(*words: str | Path) -> str:
    """Spell the command of these `words` so that a shell reads them again, whatever they hold."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    spelt = (_escaped(character) for character in word)
    return f"$'{''.join(spelt)}'"  # which bash, zsh and ksh read


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
