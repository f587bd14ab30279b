"""Packed bytes come out whole, or the file is refused by name: never a part of it for all."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import documents

from trainer.data.text.nature import Packing
from trainer.data.text.unpacking import unpacked
from trainer.errors import InputError

TEXT = "".join(f"word{i} naïve\n" for i in range(20_000)).encode()
PACKERS: dict[Packing, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
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
