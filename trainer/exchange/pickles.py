"""Reading untrusted pickles, and the two layouts in which `torch.save` keeps tensors.

Since PyTorch 1.6 a file is a zip archive of uncompressed members: `data.pkl` and every storage.
Earlier files hold pickles one after the other, followed by the storages. No reader of PyTorch or
Python is used, and no size in a file is trusted: all storages together take no more bytes than the
file has.
"""

import os
import pickle
import struct
import sys
import zipfile
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch

from trainer.errors import InputError
from trainer.exchange.known_names import find_class
from trainer.exchange.pickle_machine import Machine
from trainer.exchange.pickle_opcodes import load
from trainer.exchange.stand_ins import OpaqueClass, Refused, Storage, StorageClass
from trainer.outside import open_file, printable

#: The two pickled numbers with which the older layout begins.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
#: The most bytes of a zip archive's table of contents; a large model's takes a tenth.
_MAX_CONTENTS_BYTES = 8 << 20


def read_pickled(path: Path) -> Any:
    """Read a file of `torch.save` (of any age) or of `pickle.dump`.

    Raises:
        InputError: the file is no pickle, is damaged, or asks for more than tensors and plain
            values.
    """
    try:
        with open_file(path) as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Refused as error:
        raise InputError(f"{path} is refused: {printable(error)}; nothing of it was run") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into memory") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint: {printable(error)}") from None


def _read(file: BufferedReader, n_bytes: int) -> Any:
    begin = file.read(262)
    if begin[257:] == b"ustar":
        raise Refused("it is an archive, but none of torch.save")
    if begin.startswith(b"PK\x03\x04"):
        return _read_archive(file, n_bytes)
    file.seek(0)
    return _read_older(file, n_bytes)


class _Storages:
    """Storages by key, which all together take no more bytes than their file has."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self.made: dict[str, Storage] = {}

    def make(self, kind: Any, key: Any, numel: Any) -> Storage:
        """Make the storage of a key, once per key; its numbers are read later."""
        if not isinstance(kind, StorageClass) or not isinstance(key, str) or type(numel) is not int:
            raise Refused("it refers to something that is no storage")
        n_bytes = numel * kind.dtype.itemsize
        if not 0 <= n_bytes <= self._left:
            raise Refused(f"a storage of {n_bytes:,} bytes is more than the file holds")
        self._left -= n_bytes
        self.made[key] = Storage(torch.empty(n_bytes, dtype=torch.uint8).view(kind.dtype))
        return self.made[key]


def _fill(storage: Storage, file: BufferedReader) -> None:
    """Read a storage's numbers from the file's present position."""
    target: Any = storage.values.view(torch.uint8).numpy()
    if file.readinto(target) != len(target):
        raise pickle.UnpicklingError("it ends early")


def _read_older(file: BufferedReader, n_bytes: int) -> Any:
    """Read a pickle, or the older layout, which begins with one."""
    storages = _Storages(n_bytes)
    views: dict[str, Storage] = {}

    def persistent(identity: Any) -> Any:
        """Return the storage, or the view of one, that the pickle refers to."""
        kind, *rest = identity if isinstance(identity, tuple) else ("",)
        if kind == "module" and len(rest) == 3 and isinstance(rest[0], OpaqueClass):
            return rest[0]  # the rest is the source of a class
        if kind != "storage" or len(rest) != 5:
            raise Refused("it refers to something that is no storage")
        kind, key, _, numel, view = rest
        storage = storages.made.get(key) or storages.make(kind, key, numel)
        if view is None:
            return storage
        if not isinstance(view, tuple) or [type(part) for part in view] != [str, int, int]:
            raise Refused("it refers to something that is no storage")
        name, begin, length = view
        if not 0 <= begin <= begin + length <= len(storage.values):
            raise Refused("it shows more of a storage than there is")
        return views.setdefault(name, Storage(storage.values[begin : begin + length]))

    machine = Machine(file, n_bytes, find=find_class, persistent=persistent)
    content = load(machine)
    if type(content) is not int or content != _MAGIC:
        if storages.made:
            raise Refused("it refers to something outside the file")
        return content
    protocol = load(machine)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise pickle.UnpicklingError("it is of another version of PyTorch's")
    load(machine)  # the sizes of the writer's numbers
    content, keys = load(machine), load(machine)
    if not isinstance(keys, list) or {*map(str, keys)} != storages.made.keys():
        raise pickle.UnpicklingError("its storages are not those that its tensors need")
    for key in keys:
        (numel,) = struct.unpack("<q", machine.read(8))
        if numel != len(storages.made[key].values):
            raise pickle.UnpicklingError(f"storage {key} has another size than its tensors need")
        _fill(storages.made[key], file)
    return content


def _read_archive(file: BufferedReader, n_bytes: int) -> Any:
    """Read the layout since PyTorch 1.6."""
    members = _members(file)
    root = next((name for name in members if name.endswith("/data.pkl")), None)
    if root is None:
        raise Refused("it is an archive, but none of torch.save")
    folder = root.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise Refused("it is a TorchScript program")
    order = members.get(f"{folder}byteorder")
    if (
        order is not None
        and file.read(min(16, _go_to(order, file, n_bytes))) != sys.byteorder.encode()
    ):
        raise Refused("its numbers are of another byte order than this machine's")
    storages = _Storages(n_bytes)

    def persistent(identity: Any) -> Any:
        """Return the storage that the pickle refers to, filled from its member of the archive."""
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise Refused("it refers to something that is no storage")
        _, kind, key, _, numel = identity
        if (storage := storages.made.get(key)) is not None:
            return storage
        storage = storages.make(kind, key, numel)
        member = members.get(f"{folder}data/{key}")
        if member is None or _go_to(member, file, n_bytes) != storage.values.nbytes:
            raise pickle.UnpicklingError(f"storage {key} is missing, or has another size")
        _fill(storage, file)
        return storage

    pickled = BytesIO(file.read(_go_to(members[root], file, n_bytes)))
    machine = Machine(pickled, len(pickled.getbuffer()), find=find_class, persistent=persistent)
    return load(machine)


def _members(file: BufferedReader) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's table of contents, by name."""
    try:
        contents = zipfile.ZipFile(cast(IO[bytes], _Contents(file)))
    except (Refused, zipfile.BadZipFile):
        raise
    except Exception as error:  # with a damaged table `zipfile` raises anything
        raise zipfile.BadZipFile(f"its table of contents cannot be read ({error})") from None
    return {info.filename: info for info in contents.infolist()}


class _Contents:
    """A file of which `zipfile` may read little more than the table of contents."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        wanted = _MAX_CONTENTS_BYTES if size < 0 else size
        if wanted > _MAX_CONTENTS_BYTES:
            raise Refused("its table of contents is larger than any checkpoint's")
        return self._file.read(wanted)


def _go_to(member: zipfile.ZipInfo, file: BufferedReader, n_bytes: int) -> int:
    """Go to the beginning of a member's bytes, and return their number."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise Refused("its members are compressed or encrypted, which torch.save never does")
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile("a member is not where its table of contents says")
    begin = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if member.compress_size != member.file_size or begin + member.file_size > n_bytes:
        raise zipfile.BadZipFile("a member is larger than the file")
    file.seek(begin)
    return member.file_size
