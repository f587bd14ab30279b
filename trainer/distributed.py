"""Who this process is among its peers, and the few collectives of the control plane.

They run over gloo on the host, beside DeepSpeed's own groups: no flag ever waits for a device.
Every function here is called by all ranks.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from trainer.errors import InputError

T = TypeVar("T")

#: What a launcher tells a worker; `complete_environ` fills it in where there is no launcher.
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: Any = None
    """Process group over gloo; None before `trainer.engine.connect`."""

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes what there is one of."""
        return self.rank == 0


def complete_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The rendezvous variables of this process: a launcher's, Slurm's, or those of a lone process.

    Under ``srun`` MASTER_ADDR and MASTER_PORT come from the batch script, which alone knows them.

    Raises:
        InputError: some are set and others missing.
    """
    slurm = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    found = {key: environ[key] for key in RENDEZVOUS if key in environ}
    if "RANK" not in found and "MASTER_ADDR" in environ and "SLURM_PROCID" in environ:
        found |= {key: environ[name] for key, name in slurm.items() if name in environ}
    if "RANK" in found:
        found.setdefault("LOCAL_RANK", "0")
        found.setdefault("LOCAL_SIZE", environ.get("LOCAL_WORLD_SIZE", "1"))
        missing = [key for key in RENDEZVOUS if key not in found]
        if missing:
            raise InputError(
                f"RANK is set in the environment, but not {', '.join(missing)}: start under "
                f"deepspeed, torchrun or srun, or unset RANK to run alone"
            )
        return found
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return dict(zip(RENDEZVOUS, ("0", "1", "0", "1", "127.0.0.1", str(port)), strict=True))


def choose_device(wanted: str, *, local_rank: int) -> torch.device:
    """``cuda`` where there is one, unless `wanted` says otherwise."""
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise InputError("--device cuda: this machine shows no CUDA device; use --device cpu")
    if wanted == "cpu" or not has_cuda:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def this_process(environ: Mapping[str, str], *, device: str) -> World:
    """Who a completed `environ` says this process is; `device` as for `choose_device`."""
    local_rank = int(environ["LOCAL_RANK"])
    return World(
        rank=int(environ["RANK"]), world_size=int(environ["WORLD_SIZE"]), local_rank=local_rank,
        device=choose_device(device, local_rank=local_rank),
    )  # fmt: skip


def join(world: World, *, timeout_s: float) -> World:
    """Join the process group without DeepSpeed, for commands that only read a run."""
    if world.world_size == 1:
        return world
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group("gloo", rank=world.rank, world_size=world.world_size, timeout=timeout)
    return replace(world, control=dist.group.WORLD)


def on_main(work: Callable[[], T], world: World) -> T:
    """Rank 0's result of `work`, on every rank; its `InputError` is raised on every rank."""
    result: tuple[T | None, InputError | None] = (None, None)
    if world.is_main:
        try:
            result = (work(), None)
        except InputError as error:
            result = (None, error)
    value, problem = broadcast_object(result, world)
    if problem is not None:
        raise problem
    return cast(T, value)


def on_each(work: Callable[[], T], world: World) -> T:
    """Each rank's own result of `work`; an `InputError` of the lowest rank is raised on all."""
    result, problem = None, None
    try:
        result = work()
    except InputError as error:
        problem = error
    for found in gather_objects(problem, world):
        if found is not None:
            raise found
    return cast(T, result)


def broadcast_object(value: T, world: World) -> T:
    """Rank 0's `value`, on every rank. Between processes of one job only: it pickles."""
    if world.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=world.control)
    return box[0]


def gather_objects(value: T, world: World) -> list[T]:
    """Every rank's `value`, in order of rank, on every rank."""
    if world.world_size == 1:
        return [value]
    boxes: list[Any] = [None] * world.world_size
    dist.all_gather_object(boxes, value, group=world.control)
    return boxes


def sum_floats(values: list[float], world: World) -> list[float]:
    """Sums over ranks, in fp64."""
    total = torch.tensor(values, dtype=torch.float64)
    if world.world_size > 1:
        dist.all_reduce(total, group=world.control)
    return total.tolist()


def largest(value: int, world: World) -> int:
    """The largest `value` over ranks."""
    return max(gather_objects(value, world))


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.world_size > 1:
        dist.barrier(group=world.control)


class Agreement:
    """Flags that ranks agree on one step late: the maximum over ranks, element by element.

    `post` starts the exchange and returns at once; `take` gives the result of the post before it.
    """

    def __init__(self, world: World, n_flags: int) -> None:
        self.world, self.n_flags = world, n_flags
        self._flags: torch.Tensor | None = None
        self._work: Any = None

    def post(self, flags: list[int]) -> None:
        """Send this rank's flags."""
        self._flags = torch.tensor(flags, dtype=torch.int32)
        if self.world.world_size > 1:
            self._work = dist.all_reduce(
                self._flags, dist.ReduceOp.MAX, group=self.world.control, async_op=True
            )

    def take(self) -> list[int]:
        """The agreed flags of the last post, waiting for it; zeros before the first."""
        if self._flags is None:
            return [0] * self.n_flags
        if self._work is not None:
            self._work.wait()
        flags, self._flags, self._work = self._flags.tolist(), None, None
        return flags
