"""Packed bytes come out whole, or the file is refused by name: never a part of it for all."""

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from documents import documents
from txl_command import said_in

from trainer.data.text.nature import Packing
from trainer.data.text.unpacking import unpacked
from trainer.errors import InputError

TEXT = "".join(f"word{i} naïve\n" for i in range(20_000)).encode()
PACKERS: dict[Packing, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda text: zstandard.ZstdCompressor(write_checksum=True).compress(text),
}
streams = pytest.mark.parametrize("packing", PACKERS)


def unpack(packed: bytes, *packings: Packing) -> bytes:
    return unpacked(io.BytesIO(packed), packings).read()


@streams
@pytest.mark.parametrize("n_streams", [1, 2, 30])
def test_all_streams_of_a_file_are_read_and_zeros_between_them_are_padding(
    packing: Packing, n_streams: int
) -> None:
    step = len(TEXT) // n_streams + 1
    packed = [PACKERS[packing](TEXT[i : i + step]) for i in range(0, len(TEXT), step)]
    assert unpack(b"".join(packed), packing) == TEXT
    assert unpack(bytes(512).join(packed) + bytes(99_996), packing) == TEXT


@streams
def test_what_is_packed_twice_is_unpacked_twice(packing: Packing) -> None:
    for outer, pack in PACKERS.items():
        assert unpack(pack(PACKERS[packing](TEXT)), outer, packing) == TEXT


def test_lzma_of_old_is_read() -> None:
    assert unpack(lzma.compress(TEXT, lzma.FORMAT_ALONE), "xz") == TEXT


@streams
def test_damaged_files_are_refused_by_name(tmp_path: Path, packing: Packing) -> None:
    whole = PACKERS[packing](TEXT)
    path = tmp_path / "packed"
    path.write_bytes(whole)
    assert documents(path) == [TEXT.decode()]
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    spoilt_second = bytearray(whole * 3)
    spoilt_second[len(whole) + 1] ^= 0x10  # the mark of the second stream
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:20],
        flipped,
        spoilt_second,
        whole + b"rest",
    ):
        path.write_bytes(damaged)
        # A flipped bit may show as text that is no UTF-8 before the checksum is reached.
        with pytest.raises(
            InputError, match=r"packed: (cannot be read|not UTF-8|a NUL|this is bz)"
        ):
            documents(path)


def test_a_file_that_would_fill_the_memory_to_be_unpacked_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    path = tmp_path / "a.xz"
    with lzma.open(path, "wb", filters=filters) as file:
        file.write(b"text")
    with pytest.raises(InputError, match=r"a\.xz: cannot be read: Memory usage limit exceeded"):
        documents(path)
    path.write_bytes(lzma.compress(TEXT, preset=9))
    assert documents(path) == [TEXT.decode()]


def test_zstandard_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    for window_log, is_read in ((27, True), (28, False)):
        settings = zstandard.ZstdCompressionParameters(window_log=window_log)
        stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        path.write_bytes(stream.compress(b"text") + stream.flush())
        if is_read:
            assert documents(path) == ["text"]
            continue
        with pytest.raises(InputError, match=r"a\.zst: cannot be read: damaged.*too much memory"):
            documents(path)


def test_what_hardly_anything_unpacks_to_is_read_in_small_parts() -> None:
    """A kilobyte of Zstandard can be 32 MiB of text."""
    n_bytes = 1 << 28
    stream = unpacked(io.BytesIO(zstandard.ZstdCompressor().compress(bytes(n_bytes))), ["zstd"])
    tracemalloc.start()
    assert sum(len(block) for block in iter(lambda: stream.read(1 << 16), b"")) == n_bytes
    assert tracemalloc.get_traced_memory()[1] < n_bytes / 2
    tracemalloc.stop()


def test_without_the_library_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(PACKERS["zstd"](TEXT))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    ended = said_in("utf-8", monkeypatch, "prepare", "--train", path, "--out", tmp_path / "corpus")
    assert ended.code == 2
    assert "takes zstandard, which cannot be imported" in ended.err
    assert "install the extra zst (pip install zstandard)" in ended.err
    assert ended.err.count("\n") == 1
