"""Copying folders of a public bucket of Google Cloud Storage, each file checked as it is listed.

No checksum is known beforehand: each file is compared with the size and the MD5 that the bucket's
own listing gives.
"""

import base64
import binascii
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from trainer.data.prepare.by_name.download import checksum_of, download
from trainer.data.prepare.progress import progress
from trainer.errors import InputError
from trainer.outside import printable

HOST = "https://storage.googleapis.com"
_TIMEOUT_S = 60
_MAX_PAGE_BYTES = 16 << 20
#: Connections at a time: most files are small, and each costs a round trip.
_N_CONNECTIONS = 8
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file as its bucket lists it: its name with its folder, its size and `md5:HEX`."""

    name: str
    n_bytes: int
    checksum: str


def listing(bucket: str, folder: str, *, host: str = HOST) -> list[Listed]:
    """Return the files that lie directly in `folder` of `bucket`, by name.

    Raises:
        InputError: the host does not answer, or its answer is no such listing.
    """
    files: dict[str, Listed] = {}
    token: str | None = None
    while True:
        page = _page(bucket, folder, token, host=host)
        try:
            found = [_listed(item, folder) for item in page.get("items", [])]
            token = page.get("nextPageToken")
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
            reason = printable(error, most=200)
            raise InputError(f"{host}: no listing of {bucket}/{folder}: {reason}") from None
        files.update({file.name: file for file in found if file is not None})
        if not token:
            return [files[name] for name in sorted(files)]


def copy(bucket: str, files: Sequence[Listed], *, into: Path, label: str, host: str = HOST) -> None:
    """Bring all `files` to `into`, under their names; those that are there and whole are kept.

    What a broken or killed call had received is kept, and the next call goes on from there.

    Raises:
        InputError: a file does not arrive as it is listed; the others may have.
    """
    with progress(label, n_bytes=sum(file.n_bytes for file in files)) as on_bytes:
        fetch = _Fetch(f"{host}/{quote(bucket)}", into, on_bytes)
        for folder in {(into / file.name).parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_N_CONNECTIONS) as pool:
            try:
                for _ in pool.map(fetch, files):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


class _Fetch:
    """A function that brings a file to the disk; several threads call it at a time."""

    def __init__(self, url: str, into: Path, on_bytes: Callable[[int], None]) -> None:
        self._url, self._into, self._on_bytes = url, into, on_bytes
        self._lock = threading.Lock()

    def __call__(self, file: Listed) -> None:
        path = self._into / file.name
        whole = path.is_file() and path.stat().st_size == file.n_bytes
        if not whole or checksum_of(path, like=file.checksum) != file.checksum:
            url = f"{self._url}/{quote(file.name)}"
            download(path, urls=[url], checksum=file.checksum, is_shown=False)
        with self._lock:
            self._on_bytes(file.n_bytes)


def _page(bucket: str, folder: str, token: str | None, *, host: str) -> dict[str, Any]:
    query = {
        "prefix": f"{folder}/",
        "fields": "nextPageToken,items(name,size,md5Hash)",
        **({"pageToken": token} if token else {}),
    }
    url = f"{host}/storage/v1/b/{quote(bucket)}/o?{urlencode(query)}"
    try:
        request = Request(url, headers={"User-Agent": "txl-trainer"})
        with urlopen(request, timeout=_TIMEOUT_S) as response:
            text = response.read(_MAX_PAGE_BYTES)
        page = json.loads(text)
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        reason = printable(getattr(error, "reason", None) or error, most=200)
        raise InputError(f"{host}: {bucket}/{folder} cannot be listed: {reason}") from None
    if not isinstance(page, dict):
        raise InputError(f"{host}: no listing of {bucket}/{folder}: not an object")
    return page


def _listed(item: Any, folder: str) -> Listed | None:
    """Return a file; None for the folder itself, which some tools leave as an empty object.

    Raises:
        KeyError, TypeError, ValueError: the item is no file of the folder.
    """
    name = item["name"]
    if name == f"{folder}/":
        return None
    if not _FILE_NAME.fullmatch(name.removeprefix(f"{folder}/")):
        raise ValueError(f"{name!r} is no file of {folder}")
    digest = base64.b64decode(item["md5Hash"], validate=True)
    return Listed(name=name, n_bytes=int(item["size"]), checksum=f"md5:{digest.hex()}")


def hash_lines(files: Sequence[Listed]) -> Iterator[bytes]:
    """Yield a line per file, as `md5sum` would write it."""
    for file in files:
        yield f"{file.checksum.partition(':')[2]}  {file.name}\n".encode()
