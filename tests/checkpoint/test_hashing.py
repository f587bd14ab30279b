"""Ranks share out the files to hash, and all refuse what one of them finds broken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders import lone_world
from hypothesis import given
from hypothesis import strategies as st
from ranks import told_by_ranks
from saved_checkpoints import LISTED, flip_a_bit, save

from trainer.checkpoint import hashing
from trainer.checkpoint.folder import newest_whole, verify
from trainer.checkpoint.hashing import Fingerprints, fingerprint, led_with_hashes, shared_out
from trainer.distributed import World
from trainer.errors import InputError


@given(sizes=st.lists(st.integers(0, 99), max_size=12), n_ranks=st.integers(1, 5))
def test_every_file_is_hashed_by_one_rank_and_no_rank_has_much_more_to_do(
    tmp_path_factory: Any, sizes: list[int], n_ranks: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    for i, size in enumerate(sizes):
        (folder / str(i)).write_bytes(bytes(size))
    shares = shared_out(folder, [str(i) for i in range(len(sizes))], n_ranks=n_ranks)
    assert sorted(int(name) for share in shares for name in share) == list(range(len(sizes)))
    loads = [sum(sizes[int(name)] for name in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_small_files_fill_what_large_ones_leave(tmp_path: Path) -> None:
    for name, size in {"a": 1, "b": 1, "c": 1, "d": 1, "e": 4}.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert shared_out(tmp_path, "abcde", n_ranks=2) == [["e"], ["a", "b", "c", "d"]]


def _two_verify(world: World, folder: Path) -> list[Any]:
    """Return what each rank hashes of a whole checkpoint, and is told of a broken file of each."""
    hashed: list[str] = []
    real = hashing.fingerprint

    def noted(path: Path, *, sync: bool = False) -> dict[str, Any]:
        hashed.append(path.name)
        return real(path, sync=sync)

    hashing.fingerprint = noted

    def work(by_all: Fingerprints) -> str:
        return str(newest_whole(folder / "checkpoints", by_all).path)

    newest = led_with_hashes(work, world)
    told = []
    for name in LISTED:
        try:
            led_with_hashes(lambda by_all, name=name: verify(folder / name, hashed=by_all), world)
        except InputError as error:
            told.append(str(error))
    whole: dict[str, Any] = led_with_hashes(
        lambda by_all: verify(folder / "checkpoints" / "step-00000002", hashed=by_all), world
    )
    n_first = len(hashed) // (len(LISTED) + 2)
    return [newest, told, whole["train"], hashed[:n_first]]


def test_ranks_hash_different_files_and_agree(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path / "checkpoints", step)
    for name in LISTED:
        flip_a_bit(save(tmp_path / f"{name} broken", 1).rename(tmp_path / name) / name)
    first, second = told_by_ranks(_two_verify, tmp_path)
    assert first[:3] == second[:3]
    newest, told, train, _ = first
    assert newest == str(tmp_path / "checkpoints" / "step-00000002")
    assert train == {"step": 2}
    for name, line in zip(LISTED, told, strict=True):
        assert f"{tmp_path / name / name} is corrupt" in line
    assert set(first[3]) | set(second[3]) == set(LISTED)
    assert not set(first[3]) & set(second[3])


def test_a_file_that_cannot_be_read_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a")
    found = hashing.fingerprints(tmp_path, ["there", "gone"])
    assert found == {"there": fingerprint(tmp_path / "there"), "gone": "No such file or directory"}


def test_one_rank_hashes_all_by_itself(tmp_path: Path) -> None:
    def work(by_all: Fingerprints) -> Sequence[str]:
        return sorted(by_all(tmp_path, ["there"]))

    (tmp_path / "there").write_text("a")
    assert led_with_hashes(work, lone_world()) == ["there"]
