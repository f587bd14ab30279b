"""Become the training of one task of a job array: ``sweep_task.py FILE [arguments for all tasks]``.

A line of the file has the arguments of a task; `sweep.sbatch` says how it is read.
"""

import io
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Give this process over to train.sbatch, or print one line that says why not."""
    try:
        task = _task(environ)
        if not arguments or arguments[0].startswith("-"):
            raise ValueError("the file of the tasks' arguments comes first: sweep.sbatch FILE …")
        path, *common = arguments
        own = words_of_task(Path(path), task)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = Path(environ.get("SWEEP_DIR") or f"runs/sweep-{environ['SLURM_ARRAY_JOB_ID']}")
    words = training(own, common, sweep=folder.absolute().name, task=task)
    script = str(Path(__file__).with_name("train.sbatch"))
    os.execvpe("bash", ["bash", script, *words], {**environ, "RUN_DIR": str(folder / str(task))})


def _task(environ: Mapping[str, str]) -> int:
    text = environ.get("SLURM_ARRAY_TASK_ID", "")
    if not text.isdecimal():
        raise ValueError("this is no task of an array: submit sweep.sbatch with --array=0-N")
    return int(text)


def words_of_task(path: Path, task: int) -> list[str]:
    """Return the words of the line of a task, counted from 0 without comments and blank lines.

    Raises:
        ValueError: there is no such file or line, or it cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}: name the file with a line of arguments per task first"
        ) from None
    counted = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.lstrip().startswith(b"#")
    ]
    if not counted:
        raise ValueError(f"{path} has no line of arguments: write one per task")
    last = len(counted) - 1
    if task > last:
        raise ValueError(
            f"{path} has lines of arguments for tasks 0 to {last}, but this is task {task}: "
            f"submit with --array=0-{last}, or add lines"
        )
    number, line = counted[task]
    try:
        return words_of(line.decode())
    except UnicodeDecodeError:
        raise ValueError(f"{path} line {number}: not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path} line {number}: {error}: {line.decode()[:200]!r}") from None


def words_of(line: str) -> list[str]:
    """Split a line as a shell does, up to a comment; nothing is expanded.

    Raises:
        ValueError: a quote is not closed, nothing follows a backslash, or there is a NUL.
    """
    if "\0" in line:
        raise ValueError("a NUL in the line")
    rest = io.StringIO(line)
    lexer = shlex.shlex(rest, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # it takes a # inside a word for a comment
    words: list[str] = []
    while not line[rest.tell() :].lstrip().startswith("#"):
        word = lexer.get_token()
        if word is None:
            break
        words.append(word)
    return words


def training(own: list[str], common: list[str], *, sweep: str, task: int) -> list[str]:
    """Return the arguments of launch/train.py, where the last word on a setting counts.

    A recipe of the task's own comes first: behind a flag it might be read as one of its values.
    """
    recipe = own[:1] if own and not own[0].startswith("-") else []
    names = ["--tracking.group", sweep, "--tracking.name", f"{sweep}-{task}"]
    return [*recipe, *names, *common, *own[len(recipe) :]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
