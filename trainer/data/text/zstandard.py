"""Unpacking Zstandard, in bounded memory, with the library of an extra."""

from typing import Any

from trainer.optional import optional

# A file can demand gigabytes before it yields a byte; `zstd -d` allows as much unasked.
_MOST_WINDOW_BYTES = 1 << 27
# The library gives all that some packed bytes unpack to: at most 32,768 times as much.
_STEP_BYTES = 1 << 10


class ZstandardDecompressor:
    """A decompressor of one frame, with the methods of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        """Begin a frame; raise `InputError` if the library is not installed."""
        self._library: Any = optional("zstandard", extra="zst", does="read Zstandard (.zst)")
        unpacker = self._library.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
        self._frame = unpacker.decompressobj()
        self._packed = memoryview(b"")
        self._unpacked = memoryview(b"")

    @property
    def eof(self) -> bool:
        """Return whether the frame has ended, and all of it was given."""
        return bool(self._frame.eof) and not self._unpacked

    @property
    def unused_data(self) -> bytes:
        """Return the bytes after the end of the frame."""
        return bytes(self._frame.unused_data) + bytes(self._packed)

    @property
    def needs_input(self) -> bool:
        """Return whether nothing more can be given without more packed bytes."""
        return not self._packed and not self._unpacked

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Take in packed bytes; return at most `max_length` unpacked ones.

        Raises:
            OSError: the bytes are damaged, or need too much memory.
        """
        if data:
            self._packed = memoryview(bytes(self._packed) + data)
        while self._packed and not self._unpacked and not self._frame.eof:
            step, self._packed = self._packed[:_STEP_BYTES], self._packed[_STEP_BYTES:]
            try:
                self._unpacked = memoryview(self._frame.decompress(step))
            except self._library.ZstdError as error:
                raise OSError(f"damaged Zstandard: {error}") from None
        given, self._unpacked = self._unpacked[:max_length], self._unpacked[max_length:]
        return bytes(given)
