"""Any part of a parameter is read from whichever files hold it; what is no whole is refused."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from saved_checkpoints import save
from torch import Tensor

from trainer.checkpoint.contents import parts as reading
from trainer.checkpoint.contents.index import (
    INDEX,
    Entry,
    Part,
    index_of,
    index_of_whole,
    optimizer_file,
    read_index,
    weights_file,
    write_index,
)
from trainer.checkpoint.contents.parts import Parts
from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.checkpoint.contents.tensors import read_shapes, read_weights
from trainer.checkpoint.folder import verify
from trainer.checkpoint.hashing import fingerprint
from trainer.errors import InputError

SHAPES = {"table": (7, 3), "bias": (5,), "scale": (), "cube": (2, 3, 2)}


def values(key: str) -> dict[str, Tensor]:
    """Return numbers of which none is there twice."""
    first, found = 1000.0 * len(key), {}
    for name, shape in SHAPES.items():
        found[name] = torch.arange(first, first + math.prod(shape)).view(shape)
        first += math.prod(shape)
    return found


def test_parameters_that_are_whole_lie_in_the_file_of_rank_0() -> None:
    assert index_of_whole({"table": (7, 3), "scale": ()}) == {
        "table": Entry((7, 3), (Part(0, 0, 21),)),
        "scale": Entry((), (Part(0, 0, 1),)),
    }


def write_format_3(folder: Path, cuts: dict[str, list[int]]) -> None:
    """Write parts between the cuts, each in another rank's files, not in order; moments as well."""
    files: dict[str, dict[str, Tensor]] = {}
    places: dict[int, list[tuple[str, int, int]]] = {}
    for name, shape in SHAPES.items():
        borders = sorted({0, math.prod(shape), *(c for c in cuts[name] if c < math.prod(shape))})
        for rank, (begin, end) in enumerate(reversed(list(itertools.pairwise(borders)))):
            places.setdefault(rank, []).append((name, begin, end - begin))
            for key, file, stored in (
                ("weight", weights_file(rank), name),
                ("exp_avg", optimizer_file(rank), f"{name}|exp_avg"),
            ):
                part_N = values(key)[name].flatten()[begin:end].clone()
                files.setdefault(file, {})[stored] = part_N
    for file, tensors in files.items():
        save_tensors(tensors, folder / file)
    write_index(index_of(SHAPES, places), folder)


def write_format_2(folder: Path) -> None:
    """Write whole parameters, one half of them in each rank's files."""
    for rank, names in enumerate((["table", "scale"], ["bias", "cube"])):
        save_tensors({name: values("weight")[name] for name in names}, folder / weights_file(rank))
        moments = {f"{name}|exp_avg": values("exp_avg")[name] for name in names}
        save_tensors(moments, folder / optimizer_file(rank))


def check_all_reads(folder: Path, name: str, begin: int, end: int) -> None:
    parts = Parts(folder, read_index(folder))
    for key in ("weight", "exp_avg"):
        found = torch.full((end - begin,), torch.nan)
        parts.read(name, key, begin, found)
        assert torch.equal(found, values(key)[name].flatten()[begin:end])


@given(data=st.data())
def test_any_slice_is_read_wherever_the_parts_were_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    cuts = {name: data.draw(st.lists(st.integers(1, 20), max_size=4)) for name in SHAPES}
    write_format_3(folder, cuts)
    name = data.draw(st.sampled_from(list(SHAPES)))
    n = math.prod(SHAPES[name])
    begin = data.draw(st.integers(0, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", data.draw(st.integers(1, 8)))
        check_all_reads(folder, name, begin, data.draw(st.integers(begin, n)))
    assert read_shapes(folder) == SHAPES
    for name, weight in read_weights(folder).items():
        assert torch.equal(weight, values("weight")[name])


@pytest.mark.parametrize("piece", [1, 4, 1 << 20])
@pytest.mark.parametrize("name", SHAPES)
def test_any_slice_is_read_from_files_without_an_index(
    tmp_path: Path, name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_format_2(tmp_path)
    monkeypatch.setattr(reading, "PIECE", piece)
    n = math.prod(SHAPES[name])
    for begin in range(n + 1):
        for end in range(begin, n + 1):
            check_all_reads(tmp_path, name, begin, end)
    assert read_shapes(tmp_path) == SHAPES


def test_values_are_converted_to_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    write_format_3(tmp_path, {name: [2] for name in SHAPES})
    found = torch.zeros(5, dtype=torch.bfloat16)
    Parts(tmp_path, read_index(tmp_path)).read("bias", "weight", 0, found)
    assert torch.equal(found, values("weight")["bias"].bfloat16())


Change = Callable[[dict[str, Any]], None]


def parts_of(index: dict[str, Any]) -> Any:
    return index["parameters"]["a"]["parts"]


CHANGES: dict[str, tuple[Change, str]] = {
    "a part is missing": (lambda index: parts_of(index).pop(), "'a' are not the whole"),
    "a part is short": (lambda index: parts_of(index)[0].__setitem__(2, 299), "not the whole"),
    "a part is twice": (lambda index: parts_of(index).append([0, 0, 300]), "not the whole"),
    "a rank has two parts": (
        lambda index: index["parameters"]["a"].update(parts=[[0, 0, 150], [0, 150, 150]]),
        "not the whole",
    ),
    "a part is behind": (lambda index: parts_of(index)[0].__setitem__(1, 1), "not the whole"),
    "another shape": (
        lambda index: index["parameters"]["a"].update(shape=[30, 11]),
        "not the whole",
    ),
    "more than the file holds": (
        lambda index: index["parameters"].update(
            a={"shape": [10**9, 999], "parts": [[0, 0, 999 * 10**9]]}
        ),
        "rank 0 do not hold 'a' in fp32",
    ),
    "another rank's file": (lambda index: parts_of(index)[0].__setitem__(0, 7), "weights-00007"),
    "a parameter that no file has": (
        lambda index: index["parameters"].update(d={"shape": [2], "parts": [[0, 0, 2]]}),
        "rank 0 do not hold 'd'",
    ),
    "negative": (lambda index: parts_of(index)[0].__setitem__(1, -1), "corrupt"),
    "no parameters": (lambda index: index.clear(), "corrupt"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_that_says_something_else_than_the_files_is_refused(
    tmp_path: Path, name: str
) -> None:
    path = save(tmp_path, 1)
    change, told = CHANGES[name]
    index = json.loads((path / INDEX).read_text())
    change(index)
    (path / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=told) as refusal:
        read_weights(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32, torch.float64])
def test_weights_in_another_dtype_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    save_tensors({"a": torch.ones(4, dtype=dtype)}, tmp_path / weights_file(0))
    with pytest.raises(InputError, match="do not hold 'a' in fp32"):
        read_weights(tmp_path)


def test_a_manifest_of_today_lists_the_index(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest = path / "manifest.json"
    listed = json.loads(manifest.read_text())
    assert listed["files"].pop(INDEX) == fingerprint(path / INDEX)
    manifest.write_text(json.dumps(listed))
    (path / INDEX).unlink()
    with pytest.raises(InputError, match=r"does not list index\.json"):
        verify(path)
