"""Unpacking files as a stream of bytes, with one clear error if that fails."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from trainer.data.text.archive import UNREADABLE
from trainer.data.text.nature import Packing
from trainer.data.text.zstandard import ZstandardDecompressor
from trainer.errors import InputError
from trainer.outside import printable

BUFFER_BYTES = 1 << 15
# `xz -9` needs a quarter of this; a file can demand gigabytes before it yields a byte.
_XZ_MEMORY_BYTES = 1 << 28

Decompressor = bz2.BZ2Decompressor | lzma.LZMADecompressor | ZstandardDecompressor


@contextmanager
def reading_errors(name: str) -> Iterator[None]:
    """Turn errors of reading or unpacking the file `name` into an `InputError` that names it."""
    try:
        yield
    except (*UNREADABLE, lzma.LZMAError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise InputError(f"{printable(name)}: cannot be read: {printable(why)}") from None


def unpacked(raw: IO[bytes], packings: Iterable[Packing]) -> io.BufferedReader:
    """Unpack `raw` through all of its `packings`, the outermost first.

    Raises:
        InputError: the library that unpacks one of them is not installed.
    """
    stream = raw if isinstance(raw, io.BufferedReader) else _buffered(raw)
    for packing in packings:
        match packing:
            case "gzip":
                stream = _buffered(gzip.GzipFile(mode="rb", fileobj=stream))
            case "bzip2":
                stream = _buffered(_Unpacker(stream, bz2.BZ2Decompressor))
            case "xz":
                stream = _buffered(_Unpacker(stream, _xz_decompressor))
            case "zstd":
                stream = _buffered(_Unpacker(stream, ZstandardDecompressor))
            case "zip":
                raise ValueError("a zip archive is read by member")
    return stream


def _xz_decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)


def _buffered(raw: IO[bytes] | io.RawIOBase | io.BufferedIOBase) -> io.BufferedReader:
    return io.BufferedReader(raw, BUFFER_BYTES)  # type: ignore[arg-type]


class _Unpacker(io.RawIOBase):
    """An unpacker of streams one after the other, to the file's last byte.

    The standard library's own readers stop silently at bytes that do not begin a stream: a flipped
    bit in a file of many streams would lose most of it without an error.
    """

    def __init__(self, packed: IO[bytes], make: Callable[[], Decompressor]) -> None:
        self._packed, self._make = packed, make
        self._now = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill some of `buffer`; raise `EOFError` if a stream ends too early."""
        while True:
            data = b""
            if self._now.eof:
                if not (begun := self._next_stream()):
                    return 0
                self._now = self._make()
                data = self._now.decompress(begun, len(buffer))
            else:
                block = self._packed.read(BUFFER_BYTES) if self._now.needs_input else b""
                if self._now.needs_input and not block:
                    raise EOFError("its last stream is cut short")
                data = self._now.decompress(block, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _next_stream(self) -> bytes:
        """Return packed bytes from the next stream's beginning; skip padding zeros before it."""
        rest = self._now.unused_data.lstrip(b"\x00")
        while not rest and (block := self._packed.read(BUFFER_BYTES)):
            rest = block.lstrip(b"\x00")
        return rest
