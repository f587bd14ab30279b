"""Trials of all ranks together: collectives, a shared folder, clocks. Functions are collective."""

import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.distributed import World, barrier, broadcast_object, gather_objects
from trainer.doctor.checks import Check
from trainer.errors import first_few

#: Seconds by which clocks may differ: what one host writes, others hold against their own clock.
MOST_SKEW_S = 2.0
#: Rounds in which clocks are read: the quickest tells most.
_ROUNDS = 8
#: Seconds for a file of another machine to be seen, and between two looks.
_SEEN_S, _LOOK_S = 5.0, 0.1
_TOKEN = ".txl-doctor-"


def collectives(world: World) -> Check:
    """Sum, broadcast and wait over gloo and over the back end that trains."""
    if world.world_size == 1:
        return Check(name="collectives", told="one rank needs none")
    groups: dict[str, Any] = {"gloo": (world.group, torch.device("cpu"))}
    if world.device.type == "cuda":
        groups["NCCL"] = (dist.group.WORLD, world.device)
    tried, problem = [], ""
    for name, (group, device) in groups.items():
        began = time.perf_counter()
        problem = problem or _try_collectives(world, group, device)
        tried.append(f"{name} ({1000 * (time.perf_counter() - began):.1f} ms)")
    found = gather_objects(problem, world)
    told = first_few([problem for problem in found if problem], most=3)
    fix = (
        "see that hosts reach one another, and that NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME, "
        "if set, name an interface of each"
    )
    if told:
        return Check(name="collectives", told=told, fix=fix)
    return Check(name="collectives", told=f"all_reduce, broadcast, barrier over {', '.join(tried)}")


def _try_collectives(world: World, group: Any, device: torch.device) -> str:
    try:
        values = torch.full((1 << 10,), float(world.rank + 1), device=device)
        dist.all_reduce(values, group=group)
        expected = world.world_size * (world.world_size + 1) / 2
        root = torch.full((1 << 10,), float(world.rank), device=device)
        dist.broadcast(root, src=0, group=group)
        dist.barrier(group=group)
        if not bool((values == expected).all()) or not bool((root == 0).all()):
            return f"rank {world.rank} ({socket.gethostname()}) got wrong numbers"
    except RuntimeError as error:
        return f"rank {world.rank} ({socket.gethostname()}): {str(error).partition(chr(10))[0]}"
    return ""


def shared_folder(folder: Path, world: World) -> Check:
    """Write a file per rank, and see on each what others have written."""
    token = broadcast_object(secrets.token_hex(8), world)
    own, of_main = (folder / f"{_TOKEN}{token}-{rank}" for rank in (world.rank, 0))
    try:
        own.write_text(token)
        problem = ""
    except OSError as error:
        problem = f"cannot write: {error.strerror}"
    barrier(world)
    wanted = [of_main]
    if world.is_main:
        wanted = [folder / f"{_TOKEN}{token}-{rank}" for rank in range(world.world_size)]
    if not problem:
        unseen = _unseen(wanted)
        problem = f"does not see what {' and '.join(unseen)} wrote" if unseen else ""
    found = gather_objects((socket.gethostname(), str(folder.absolute()), problem), world)
    own.unlink(missing_ok=True)
    wrong = [
        f"rank {rank} ({host}) {problem} in {path}"
        for rank, (host, path, problem) in enumerate(found)
        if problem
    ]
    if wrong:
        return Check(
            name="shared folder",
            told="; ".join(wrong),
            fix="give a --run-dir on a file system that all hosts share, by its whole path",
        )
    return Check(name="shared folder", told=f"{found[0][1]}: written, and seen by all ranks")


def _unseen(files: list[Path]) -> list[str]:
    until, waiting = time.monotonic() + _SEEN_S, threading.Event()
    while (missing := [file for file in files if not file.exists()]) and time.monotonic() < until:
        waiting.wait(_LOOK_S)
    return [f"rank {file.name.rpartition('-')[2]}" for file in missing]


def clocks(world: World) -> Check:
    """Compare the ranks' clocks; a busy host answers late, so the least difference counts."""
    least = [float("inf")] * world.world_size
    for _ in range(_ROUNDS):
        barrier(world)
        times = gather_objects(time.time(), world)
        skews = [time - times[0] for time in times]
        least = [min(a, b, key=abs) for a, b in zip(least, skews, strict=True)]
    worst = max(range(world.world_size), key=lambda rank: abs(least[rank]))
    hosts = gather_objects(socket.gethostname(), world)
    if abs(least[worst]) > MOST_SKEW_S:
        told = [
            f"rank {rank} ({hosts[rank]}) is {abs(skew):,.1f} s "
            f"{'ahead of' if skew > 0 else 'behind'} rank 0"
            for rank, skew in enumerate(least)
            if abs(skew) > MOST_SKEW_S
        ]
        return Check(
            name="clocks",
            told=first_few(told, most=3),
            fix="set the clocks of all hosts by one time server (NTP)",
        )
    return Check(name="clocks", told=f"within {abs(least[worst]):.3f} s")
