"""The meeting of ranks: at one address, over groups that wait no longer than they are told."""

import socket
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

# Its functions have the group of all ranks as a default, if there is one when it is imported, as it
# is with many a model: then the group's threads outlive the interpreter, and the process aborts.
import torch.distributed.nn.functional  # noqa: F401
from torch.distributed import HashStore, Store, TCPStore  # type: ignore[attr-defined]

from trainer.distributed import Control, World
from trainer.errors import InputError

#: Seconds that a rank has to say why it gives up, before its collective ends by itself.
LAST_S = 60.0


def meet(world: World, *, backend: str, timeout: timedelta) -> None:
    """Make the process group of all ranks; on a single host nothing listens beyond the host.

    A lone rank opens no port, and several ranks on one host use a port of the loopback interface.
    Under torchrun, or on several hosts, the store is where the environment says.

    Raises:
        InputError: rank 0 finds the port taken, or a rank does not come within `timeout`.
    """
    store: Store | None = None
    try:
        if world.world_size == 1:
            store = HashStore()
        elif world.port is not None:
            listener = _listen(world.port) if world.is_main else None
            store = TCPStore(
                "127.0.0.1",
                world.port,
                world.world_size,
                world.is_main,
                timeout,
                master_listen_fd=None if listener is None else listener.detach(),
            )
        dist.init_process_group(
            backend, store=store, rank=world.rank, world_size=world.world_size, timeout=timeout
        )
    except dist.DistError as error:
        raise InputError(_why_apart(world, str(error), timeout.total_seconds())) from None


def _why_apart(world: World, error: str, timeout_s: float) -> str:
    """Return why ranks did not meet, in one line; `error` is the library's, of many lines."""
    why = error.partition("\n")[0].rstrip(". ")
    where = "MASTER_ADDR and MASTER_PORT" if world.port is None else f"127.0.0.1:{world.port}"
    return (
        f"the {world.world_size} ranks did not meet at {where} within {timeout_s:g} s: rank "
        f"{world.rank} ({socket.gethostname()}): {why}; start all of them "
        "with the same address and port, at which every host reaches rank 0's"
    )


def limit_of(timeout_s: float) -> timedelta:
    """Return how long a collective may take if a rank may wait for `timeout_s`.

    It is longer, for a rank that gives up by itself can still say for whom it waits: see
    `trainer.training.peers.watchdog`.
    """
    return timedelta(seconds=timeout_s + LAST_S)


def limit_groups(timeout_s: float) -> None:
    """Let no collective of any group of this process take longer than `limit_of` says.

    Not collective. DeepSpeed makes groups that may wait for 10 minutes on NCCL, and 30 on gloo.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(limit_of(timeout_s), group)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"port {port}, where the ranks are to meet: {(error.strerror or '').lower()}; give "
            f"another: deepspeed --master_port, or MASTER_PORT"
        ) from None
    listener.listen()
    return listener


def join(world: World, *, timeout_s: float) -> World:
    """Join the process group without DeepSpeed, for commands that only read a run."""
    if world.world_size == 1:
        return world
    meet(world, backend="gloo", timeout=timedelta(seconds=timeout_s))
    return replace(world, control=Control(dist.group.WORLD))
