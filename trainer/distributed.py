"""This process among its peers, and the few collectives of the control plane.

The collectives run over gloo on the host, beside DeepSpeed's own groups, so no flag ever waits for
a device. Every function here is called by all ranks.
"""

import atexit
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from trainer.errors import InputError
from trainer.progress import Progress

T = TypeVar("T")


class Control:
    """The process group over gloo for flags and objects, which ends before the interpreter does.

    A thread of gloo that frees a tensor needs the interpreter. If the interpreter is ending, the
    process aborts, and its exit code is lost.
    """

    def __init__(self, group: Any) -> None:
        """Take `group`; nothing else of ours may keep it."""
        self.group = group
        self._under_way: set[Any] = set()
        atexit.register(self.end)

    def start_largest(self, flags: torch.Tensor) -> Any:
        """Start to replace `flags` by their maximum over ranks; `finish` what this returns."""
        return self._start(flags, dist.ReduceOp.MAX)

    def start_sum(self, values: torch.Tensor) -> Any:
        """Start to replace `values` by their sum over ranks; `finish` what this returns."""
        return self._start(values, dist.ReduceOp.SUM)

    def _start(self, values: torch.Tensor, operation: Any) -> Any:
        work = dist.all_reduce(values, operation, group=self.group, async_op=True)
        self._under_way.add(work)
        return work

    def finish(self, work: Any) -> None:
        """Wait for the result of `start_largest` or `start_sum`."""
        work.wait()
        self._under_way.discard(work)

    def end(self) -> None:
        """End the group and its threads; leave both to the system if an exchange is under way."""
        atexit.unregister(self.end)
        group, self.group = self.group, None
        is_idle = all(work.is_completed() for work in self._under_way)
        if group is not None and dist.is_initialized() and is_idle:
            dist.destroy_process_group(group)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    port: int | None = None
    """The port at which rank 0 opens the store; None if the ranks are on several hosts, or if
    torchrun has opened one."""
    control: Control | None = None
    """None for a lone rank that needs no group, and before `trainer.engine.deepspeed.connect`."""
    progress: Progress = field(default_factory=Progress, compare=False)
    """Work that this rank has finished; who finishes a part of something long notes it there."""

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0, which writes what the ranks have in common."""
        return self.rank == 0

    @property
    def group(self) -> Any:
        """Return the process group over gloo, if there is one."""
        return None if self.control is None else self.control.group


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether `device` multiplies in bf16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def choose_device(wanted: str, *, local_rank: int) -> torch.device:
    """Choose a CUDA device and make it current, if `wanted` allows one; otherwise the CPU.

    A task that sees only one device, as with Slurm's ``--gpus-per-task=1``, computes on that one.
    Recurrent layers multiply there in fp32 as all else does: PyTorch's default is TF32.

    Raises:
        InputError: `wanted` is ``cuda`` without a device, or this task sees several devices, but
            none for `local_rank`.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise InputError("--device cuda: this machine shows no CUDA device; use --device cpu")
    if wanted == "cpu" or not has_cuda:
        return torch.device("cpu")
    n_devices = torch.cuda.device_count()
    if 1 < n_devices <= local_rank:
        raise InputError(
            f"local rank {local_rank} has no GPU of its own, for this task sees {n_devices}: start "
            f"at most {n_devices} tasks per node, or use --device cpu"
        )
    index = local_rank if n_devices > 1 else 0
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", index)


def this_process(environ: Mapping[str, str], *, device: str) -> World:
    """Return this process's `World` by an environment that `complete_environ` completed.

    `device` is what `choose_device` wants.
    """
    local_rank, world_size = int(environ["LOCAL_RANK"]), int(environ["WORLD_SIZE"])
    has_agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun holds the store
    is_one_host = environ["LOCAL_SIZE"] == environ["WORLD_SIZE"]
    return World(
        rank=int(environ["RANK"]),
        world_size=world_size,
        local_rank=local_rank,
        device=choose_device(device, local_rank=local_rank),
        port=int(environ["MASTER_PORT"]) if is_one_host and not has_agent else None,
    )


def refuse_shared_gpus(world: World) -> None:
    """Refuse ranks that share a GPU, which NCCL does not support. Collective.

    Raises:
        InputError: on every rank; names the first ranks that share one.
    """
    if world.device.type != "cuda":
        return
    gpu = f"{torch.cuda.get_device_properties(world.device).uuid} of {socket.gethostname()}"
    owner: dict[str, int] = {}
    for rank, named in enumerate(gather_objects(gpu, world)):
        if named in owner:
            raise InputError(
                f"ranks {owner[named]} and {rank} have the same GPU, {named}: start one task per "
                f"GPU, each with one of its own, or use --device cpu"
            )
        owner[named] = rank


def on_main(work: Callable[[], T], world: World) -> T:
    """Do `work` on rank 0; return its result, or raise its `InputError`, on every rank."""
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
    """Do `work` on each rank and return its result; raise the lowest rank's `InputError` on all."""
    result, problem = None, None
    try:
        result = work()
    except InputError as error:
        problem = error
    for refusal in gather_objects(problem, world):
        if refusal is not None:
            raise refusal
    return cast(T, result)


def broadcast_object(value: T, world: World) -> T:
    """Return rank 0's `value` on every rank, all of one job: the value is pickled."""
    if world.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=world.group)
    world.progress.note()
    return box[0]


def gather_objects(value: T, world: World) -> list[T]:
    """Return all ranks' values in order of rank, on every rank."""
    if world.world_size == 1:
        return [value]
    boxes: list[Any] = [None] * world.world_size
    dist.all_gather_object(boxes, value, group=world.group)
    world.progress.note()
    return boxes


def sum_floats(values: list[float], world: World) -> list[float]:
    """Return the sums over ranks, in fp64."""
    total = torch.tensor(values, dtype=torch.float64)
    if world.world_size > 1:
        dist.all_reduce(total, group=world.group)
        world.progress.note()
    return total.tolist()


def largest(value: int, world: World) -> int:
    """Return the largest `value` over ranks."""
    return max(gather_objects(value, world))


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.world_size > 1:
        dist.barrier(group=world.group)
        world.progress.note()


class Agreement:
    """Numbers that ranks agree on one step late: the maximum over ranks, element by element.

    If it `adds`, the sum: the same to the last bit on all ranks. `post` starts the exchange and
    returns at once; `take` returns the result of the last `post`.
    """

    def __init__(self, world: World, n_flags: int, *, adds: bool = False) -> None:
        self.world, self.n_flags, self._adds = world, n_flags, adds
        self._flags: torch.Tensor | None = None
        self._work: Any = None

    def post(self, flags: Sequence[float]) -> None:
        """Start the exchange with this rank's numbers, in fp64."""
        self._flags = torch.tensor(flags, dtype=torch.float64)
        if self.world.world_size > 1:
            start = self._control.start_sum if self._adds else self._control.start_largest
            self._work = start(self._flags)

    def take(self) -> list[float]:
        """Wait for the last `post`; return the result, zeros if nothing was posted since."""
        if self._flags is None:
            return [0.0] * self.n_flags
        if self._work is not None:
            self._control.finish(self._work)
        flags, self._flags, self._work = self._flags.tolist(), None, None
        return flags

    @property
    def _control(self) -> Control:
        assert self.world.control is not None, "several ranks are connected first"
        return self.world.control
