"""A small HTTP server on this machine that serves files, and misbehaves as it is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from local_server import local_server


@dataclass
class Served:
    """State of a server: what it has, how it behaves, and what it was asked for.

    Attributes:
        files: content by path, such as ``/a.zip``.
        made: gives the content of a path that is no file, such as one with a query; None if absent.
        break_after: bytes of content after which the next answers break off, one each.
        ranges: whether it understands ``Range``.
        asked: path and ``Range`` of each request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    made: Callable[[str], bytes | None] = lambda path: None
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    wrong_range: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(**behaviour: object) -> Iterator[Served]:
    """Serve until the block ends."""
    served = Served(**behaviour)  # type: ignore[arg-type]
    with local_server(lambda request: answer(request, served)) as served.url:
        yield served


def answer(request: BaseHTTPRequestHandler, served: Served) -> None:
    wanted = request.headers.get("Range")
    served.asked.append((request.path, wanted))
    content = served.files.get(request.path) or served.made(request.path)
    if content is None:
        request.send_error(404)
        return
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
    if not served.ranges:
        start, wanted = 0, None
    if wanted and start >= len(content):
        request.send_error(416)
        return
    request.send_response(206 if wanted else 200)
    if wanted:
        said = start + served.wrong_range
        request.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
    request.send_header("Content-Length", str(len(content) - start))
    request.end_headers()
    until = start + served.break_after.pop(0) if served.break_after else len(content)
    request.wfile.write(content[start:until])
