"""Pickles and files of `torch.save` that nobody vouches for are read in bounds, or refused."""

import io
import pickle
import resource
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.errors import InputError
from trainer.exchange.known_names import find_class
from trainer.exchange.layouts import read_foreign
from trainer.exchange.pickle_machine import Machine
from trainer.exchange.pickle_opcodes import load
from trainer.exchange.pickles import read_pickled
from trainer.exchange.stand_ins import Opaque
from trainer.exchange.vocabularies import read_vocabulary

MEMORY_BYTES = 200 << 20


def nested(opcodes: bytes, times: int) -> bytes:
    """Return a value on the stack, and opcodes that are repeated."""
    return b"\x80\x04" + b"K\x01" + opcodes * times


#: Streams that would take gigabytes, hours or the interpreter, and what is said of them.
BOMBS = {
    # Doubled 40 times, hashed or printed as often as a trillion times.
    "a doubled tuple as a key": (
        b"\x80\x04}" + b"K\x01" + b"2\x86" * 40 + b"K\x01s.",
        "a tuple is no key",
    ),
    "a nested tuple as a key": (b"\x80\x04}" + b"K\x01" + b"\x85" * 500_000 + b"Ns.", "no key"),
    "a doubled list as a key": (b"\x80\x04}" + b"K\x01" + b"2\x86" * 4 + b"K\x01s.", "no key"),
    "a list as text": (b"\x80\x04cbuiltins\nstr\n]\x85R.", "converts values to text"),
    "a memo as large as may be": (b"\x80\x04Nr\x00\xf0\xef\x00\x82\x01.", "opcode"),
    "a memo that is larger": (b"\x80\x04Nr\x00\x00\x4b\x01.", "MiB"),
    "a memo of four billions": (b"\x80\x04Nr\xff\xff\xff\xff.", "MiB"),
    "a text of exabytes": (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.", "ends early"),
    "an array of exabytes": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"abc.", "ends early"),
    "a frame of exabytes": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N", "ends early"),
    "bytes by number": (
        b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        "converts values to text",
    ),
    "a number of a megabyte": (
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20) + b".",
        "a number of",
    ),
    "a number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "a number of 100,000 digits"),
    "numbers that fall together": (
        b"\x80\x02}\x8a\x08" + struct.pack("<q", 2**61 - 1) + b"Ns.",
        "too large for a key",
    ),
    "millions of sets": (b"(" + b"\x8f" * 3_000_000 + b"l.", "MiB"),
    "millions of objects": (
        b"\x80\x02cargparse\nNamespace\nq\x00(" + b"h\x00)\x81" * 2_000_000 + b"l.",
        "MiB",
    ),
    "copies of a copy": (
        b"\x80\x02cbuiltins\nlist\nq\x00]("
        + b"K\x01" * 65_536
        + b"eq\x01("
        + b"h\x00h\x01\x85R" * 65_536
        + b"l.",
        "MiB",
    ),
    "a name without end": (b"c" + b"a" * 100_000 + b"\nb\n.", "a name of 100,002 characters"),
    "a line without end": (b"c" + b"a" * 3_000_000, "does not end"),
    "opcodes without end": (b"N0" * 4_100_000, "more than 8,000,000 opcodes"),
    "an extension": (b"\x80\x02\x82\x01.", "opcode"),
    "an object with names": (
        b"\x80\x04cargparse\nNamespace\n)}\x8c\x01ak\x01s\x92.".replace(b"k", b"K"),
        "named arguments",
    ),
    "something beside the file": (b"\x80\x02U\x01aQ.", "no storage"),
    "nothing": (b".", "not a whole pickle"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    stream, said = BOMBS[name]
    file = tmp_path / "vocab.pkl"
    file.write_bytes(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=said):
        read_pickled(file)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MEMORY_BYTES + 2 * len(stream)


def billion_laughs(times: int) -> Any:
    """Return a list that holds another one twice, and so on."""
    value: Any = ["ha"]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize("holder", ["model_config", "args", "cfg", "idx2sym"])
def test_a_list_doubled_forty_times_is_refused_wherever_it_stands(
    tmp_path: Path, holder: str
) -> None:
    state = {"word_emb.emb_layers.0.weight": torch.ones(2, 3)}
    name = "model_state" if holder == "model_config" else "model"
    content = {name: state, holder: {"cutoffs": billion_laughs(40)}}
    torch.save(content | {"idx2sym": billion_laughs(40)}, tmp_path / "model.pt")
    read = read_vocabulary if holder == "idx2sym" else read_foreign
    with pytest.raises(InputError) as caught:
        read(tmp_path / "model.pt")
    assert len(str(caught.value)) < 2_000


def test_a_module_that_holds_itself_twice_is_refused(tmp_path: Path) -> None:
    stream = b"\x80\x02cmem_transformer\nMemTransformerLM\nq\x00)\x81q\x01"
    for _ in range(40):
        inner = b"h\x01q\x02(X\x01\x00\x00\x00ah\x02X\x01\x00\x00\x00bh\x02d"
        modules = b"X\x08\x00\x00\x00_modules" + inner.removeprefix(b"h\x01q\x02")
        stream += b"h\x00)\x81q\x03}" + modules.replace(b"h\x02", b"h\x01") + b"sbq\x01"
    (tmp_path / "model.pt").write_bytes(stream + b".")
    assert isinstance(read_pickled(tmp_path / "model.pt"), Opaque)
    with pytest.raises(InputError, match="modules nests more than"):
        read_foreign(tmp_path / "model.pt")


# Files of torch.save


def archive(
    path: Path, pickled: bytes, *, method: int = zipfile.ZIP_STORED, **members: bytes
) -> Path:
    """Return a zip archive in the layout of `torch.save`."""
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", content)
    return path


def storage_of(numel: int, key: str = "0") -> bytes:
    """Return opcodes that refer to a storage of so many numbers."""
    number = b"\x8a\x08" + struct.pack("<q", numel)
    kind, device = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n", b"X\x03\x00\x00\x00cpu"
    return b"(" + kind + b"X\x01\x00\x00\x00" + key.encode() + device + number + b"tQ"


def tensor_of(
    storage: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> bytes:
    """Return a pickle of one tensor."""

    def longs(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in values) + b"t"

    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    parts = storage + b"\x8a\x08" + struct.pack("<q", offset) + longs(size) + longs(stride)
    return b"\x80\x02" + call + parts + b"\x89ccollections\nOrderedDict\n)RtR."


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_tensor_made_by_hand_is_read(tmp_path: Path) -> None:
    pickled = tensor_of(storage_of(4), (2, 2), (1, 2))
    found = read_pickled(archive(tmp_path / "x.pt", pickled, _0=FOUR))
    assert found.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((10**6, 10**6), (0, 0), 0),
        ((2, 3), (3, 1), 0),
        ((4,), (1,), 1),
        ((2,), (-1,), 1),
        ((1 << 62,), (4,), 0),
        ((2, 2), (1,), 0),
        ((2,) * 70, (0,) * 70, 0),
    ],
)
def test_a_tensor_larger_than_its_storage_is_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    pickled = tensor_of(storage_of(4), size, stride, offset)
    with pytest.raises(InputError):
        read_pickled(archive(tmp_path / "x.pt", pickled, _0=FOUR))


@pytest.mark.parametrize("numel", [5, 3, -1, 10**12])
def test_a_storage_of_another_size_than_the_file_has_is_refused(tmp_path: Path, numel: int) -> None:
    pickled = tensor_of(storage_of(numel), (2, 2), (1, 2))
    with pytest.raises(InputError, match="storage"):
        read_pickled(archive(tmp_path / "x.pt", pickled, _0=FOUR))


def test_what_is_packed_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    n_bytes = 512 << 20
    pickled = tensor_of(storage_of(n_bytes // 4), (n_bytes // 4,), (1,))
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data.pkl", pickled, zipfile.ZIP_STORED)
        with file.open("archive/data/0", "w") as member:
            for _ in range(n_bytes >> 20):
                member.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="more than the file holds"):
        read_pickled(path)
    packed = archive(path, b"\x80\x02N." + bytes(n_bytes >> 4), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed or encrypted"):
        read_pickled(packed)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MEMORY_BYTES


def test_a_name_that_is_no_text_in_a_table_of_contents_is_one_error(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", tensor_of(storage_of(4), (2, 2), (1, 2)), **{"\xe9": FOUR})
    damaged = path.read_bytes().replace("\xe9".encode(), b"\xff\xff")
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="table of contents cannot be read"):
        read_pickled(path)


def test_storages_of_the_older_layout_take_no_more_than_the_file_has(tmp_path: Path) -> None:
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.ones(4), whole, _use_new_zipfile_serialization=False)
    content = whole.getvalue()
    (tmp_path / "x.pt").write_bytes(content)
    assert read_pickled(tmp_path / "x.pt").tolist() == [1.0] * 4
    for spoilt in (
        content.replace(b"K\x04N", b"J\xff\xff\xff\x7fN"),  # the storage's size
        content[:-1],
        content.replace(struct.pack("<q4f", 4, 1, 1, 1, 1), struct.pack("<q4f", 5, 1, 1, 1, 1)),
    ):
        assert spoilt != content
        (tmp_path / "x.pt").write_bytes(spoilt)
        with pytest.raises(InputError):
            read_pickled(tmp_path / "x.pt")


def test_the_layouts_of_torch_save_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    values = {
        "shared": [shared, shared[3:9].view(2, 3), shared[::2]],
        "empty": torch.ones(0, 3),
        "scalar": torch.tensor(3),
        "bits": torch.tensor([True, False]),
        "halves": [torch.ones(3).half(), torch.ones(3).bfloat16()],
        "dtype": torch.float16,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([2, 3]),
        "plain": {1: (2.5, None, True, b"a", "ü", 2**40, {3}, frozenset([4]), 1j, -5)},
    }
    for layout in (True, False):
        torch.save(values, tmp_path / "x.pt", _use_new_zipfile_serialization=layout)
        found = read_pickled(tmp_path / "x.pt")
        wanted = torch.load(tmp_path / "x.pt", weights_only=False)
        for name in ("shared", "halves"):
            assert all(map(torch.equal, found[name], wanted[name]))
            assert [t.dtype for t in found[name]] == [t.dtype for t in wanted[name]]
        for name in ("scalar", "bits", "parameter"):
            assert torch.equal(found[name], wanted[name])
        assert found["plain"] == wanted["plain"]
        assert (found["dtype"], found["size"]) == (torch.float16, (2, 3))
        assert found["empty"].numel() == 0


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_python_reads_them(tmp_path: Path, protocol: int) -> None:
    values = {
        "a": [1, -2, 300, 70_000, 2**40, -(2**40), 1.5, None, True, False],
        5: ("ü", b"\xff\x00"),
        "nested": [[], {}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": [{1, 2}, frozenset("a")],
        "long": "x" * 300,
        ("a", 1): complex(1, 2),
        "same": [WORDS := ["w"], WORDS],
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(values, protocol))
    found = read_pickled(tmp_path / "x.pkl")
    assert found == values
    assert found["same"][0] is found["same"][1]


def test_a_tensor_where_names_of_arguments_belong_is_refused() -> None:
    stream = b"\x80\x04cargparse\nNamespace\n)NQ\x92."
    machine = Machine(
        io.BytesIO(stream), len(stream), find=find_class, persistent=lambda _: torch.ones(2)
    )
    with pytest.raises(pickle.UnpicklingError):
        load(machine)
