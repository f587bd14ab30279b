"""Sizes and hashes of files, computed by one process or shared out over all ranks."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from trainer.distributed import World, broadcast_object, gather_objects, on_main
from trainer.files import sync_file
from trainer.outside import open_file

T = TypeVar("T")

Found = dict[str, Any] | str
"""A file's size and hash, or why the file cannot be read."""
Fingerprints = Callable[[Path, Sequence[str]], dict[str, Found]]
"""A function that takes a folder and names of files in it, and returns what each file has."""


def fingerprint(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Return the size and hash of a file; with `sync`, bring it to the disk first."""
    if sync:
        sync_file(path)
    digest = xxhash.xxh3_128()
    with open_file(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def fingerprints(folder: Path, names: Sequence[str]) -> dict[str, Found]:
    """Return size and hash of each file; see `Fingerprints`."""
    found: dict[str, Found] = {}
    for name in names:
        try:
            found[name] = fingerprint(folder / name)
        except OSError as error:
            found[name] = error.strerror or str(error)
    return found


def led_with_hashes(work: Callable[[Fingerprints], T], world: World) -> T:
    """Do `work` on rank 0 as `on_main` does, with a function that shares its files out. Collective.

    Each rank reads about as many bytes as any other, and rank 0 gets what all have found.
    """
    if not world.is_main:
        nothing: Any = None
        while (asked := broadcast_object(nothing, world)) is not None:
            gather_objects(_own(*asked, world=world), world)
        return on_main(partial(work, fingerprints), world)  # only receives

    def by_all(folder: Path, names: Sequence[str]) -> dict[str, Found]:
        asked = folder, shared_out(folder, names, n_ranks=world.world_size)
        broadcast_object(asked, world)
        everyones = gather_objects(_own(*asked, world=world), world)
        return {name: one for found in everyones for name, one in found.items()}

    def led() -> T:
        try:
            return work(by_all)
        finally:
            broadcast_object(None, world)  # nothing more is asked

    return on_main(led, world)


def _own(folder: Path, shares: list[list[str]], *, world: World) -> dict[str, Found]:
    return fingerprints(folder, shares[world.rank])


def shared_out(folder: Path, names: Sequence[str], *, n_ranks: int) -> list[list[str]]:
    """Return per rank the files to hash: from the largest down, each to who has the least bytes."""
    sizes = {name: _size(folder / name) for name in names}
    shares: list[list[str]] = [[] for _ in range(n_ranks)]
    load = [0] * n_ranks
    for name in sorted(names, key=lambda name: -sizes[name]):
        rank = load.index(min(load))
        shares[rank].append(name)
        load[rank] += sizes[name]
    return shares


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
