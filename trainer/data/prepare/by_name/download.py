"""Downloading files: broken downloads are resumed, and only the right checksum is accepted."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from trainer.data.prepare.progress import progress
from trainer.errors import InputError
from trainer.files import lock, replace, sync

#: Where downloads are kept, beside the corpora that are made of them.
CACHE_FOLDER = "downloads"
_TIMEOUT_S = 60
_BLOCK_BYTES = 1 << 18
_RANGE_NOT_SATISFIABLE, _PARTIAL_CONTENT = 416, 206


class _NoAnswerError(Exception):
    """An error: a URL does not yield the file. The message says why."""


def checksum_of(path: Path, *, like: str) -> str:
    """Return the checksum of a file, `ALGORITHM:HEX`, by the algorithm of `like`."""
    algorithm = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def download(path: Path, *, urls: Sequence[str], checksum: str, is_shown: bool = True) -> None:
    """Download the file `path` from the first of `urls` that yields it whole and unchanged.

    Received bytes are kept in `PATH.part`, even if the process is killed, and the next call asks
    only for the rest. Only a file with the right checksum gets the name `path`; until then an old
    file of that name stays as it is. `is_shown` says whether the progress is shown.

    Raises:
        InputError: no URL yields the file, or another process is downloading it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    problems: list[str] = []
    pending = list(urls)
    with _locked(part) as file:
        while pending:
            url = pending.pop(0)
            resumed = file.tell() > 0
            try:
                _receive(url, file, label=path.name if is_shown else None)
            except _NoAnswerError as error:
                problems.append(f"{url}: {error}")
                continue
            actual = checksum_of(part, like=checksum)
            if actual == checksum:
                sync(file.fileno())
                replace(part, path)
                return
            _empty(file)
            if resumed:  # the older bytes may be wrong
                pending.insert(0, url)
            else:
                problems.append(f"{url}: its checksum is {actual}, expected {checksum}")
        raise InputError(_failure(path, part, problems, n_bytes=file.tell()))


def _failure(path: Path, part: Path, problems: list[str], *, n_bytes: int) -> str:
    advice = f"or find {path.name} elsewhere and name its folder with --from"
    if not n_bytes:
        part.unlink()
        return f"{path.name}: not downloaded: {'; '.join(problems)}; try again, {advice}"
    return (
        f"{path.name}: not downloaded: {'; '.join(problems)}; {part} keeps {n_bytes:,} bytes: "
        f"the same command goes on from there, {advice}"
    )


def _receive(url: str, file: BinaryIO, *, label: str | None) -> None:
    """Append to `file` what it lacks; resume broken connections as long as each yields bytes."""
    while True:
        n_before = file.tell()
        if _append(url, file, label=label):
            return
        if file.tell() <= n_before:
            raise _NoAnswerError(f"the connection broke after {n_before:,} bytes")


def _append(url: str, file: BinaryIO, *, label: str | None) -> bool:
    """Make one request; return whether all promised bytes came."""
    start = file.tell()
    headers = {"User-Agent": "txl-trainer"}  # some hosts refuse Python's own
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if start and error.code == _RANGE_NOT_SATISFIABLE:
            return True  # nothing is missing; the checksum decides
        raise _NoAnswerError(str(error)) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # a URLError wraps the cause
        raise _NoAnswerError(str(reason) or type(reason).__name__) from None
    with response:
        if start and response.status != _PARTIAL_CONTENT:
            _empty(file)  # a server without ranges sends everything again
        elif start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _NoAnswerError(f"it does not go on from byte {start:,}")
        promised = response.headers.get("Content-Length")
        n_whole = file.tell() + int(promised or 0)
        with _shown(label, n_bytes=n_whole) as on_read:
            on_read(file.tell())
            for block in _blocks(response):
                file.write(block)
                on_read(len(block))
    return promised is None or file.tell() >= n_whole


def _shown(label: str | None, *, n_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
    if label is None:
        return nullcontext(lambda n_read: None)
    return progress(f"downloading {label}", n_bytes=n_bytes)


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield blocks until the end, or until the connection breaks."""
    with suppress(OSError, HTTPException):
        while block := response.read1(_BLOCK_BYTES):
            yield block


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Yield `part`, open at its end and locked for this process."""
    # Unbuffered, so that a killed process loses no bytes, and the hash covers all of them.
    with part.open("ab", buffering=0) as file:
        if not lock(file, part):
            raise InputError(f"{part}: another process is downloading it; wait for it")
        yield file


def _empty(file: BinaryIO) -> None:
    file.truncate(0)
    file.seek(0)
