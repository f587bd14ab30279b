"""Finding this process's place among its peers, and where they meet, in its launcher's variables.

deepspeed and torchrun set PyTorch's variables; Slurm and each MPI set their own.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

from trainer.errors import InputError
from trainer.outside import printable

#: The variables that a launcher sets for a worker; `complete_environ` adds those that are missing.
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class _Launcher:
    """A launcher's variables for a task's place; of several names the first that is set counts."""

    name: str
    rank: str
    size: str
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()


#: Launchers of MPI. Inside a job of Slurm their variables come before Slurm's own.
_MPI = (
    _Launcher(
        name="Open MPI",
        rank="OMPI_COMM_WORLD_RANK",
        size="OMPI_COMM_WORLD_SIZE",
        local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
        local_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Launcher(
        name="MVAPICH",
        rank="MV2_COMM_WORLD_RANK",
        size="MV2_COMM_WORLD_SIZE",
        local_rank=("MV2_COMM_WORLD_LOCAL_RANK",),
        local_size=("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    _Launcher(
        name="jsrun",
        rank="JSM_NAMESPACE_RANK",
        size="JSM_NAMESPACE_SIZE",
        local_rank=("JSM_NAMESPACE_LOCAL_RANK",),
        local_size=("JSM_NAMESPACE_LOCAL_SIZE",),
    ),
    _Launcher(
        name="Flux",
        rank="FLUX_TASK_RANK",
        size="FLUX_JOB_SIZE",
        local_rank=("FLUX_TASK_LOCAL_ID",),
    ),
)
#: MPICH, Intel MPI and the like; srun sets these variables too, for programs that use MPI.
_PMI = _Launcher(
    name="MPI",
    rank="PMI_RANK",
    size="PMI_SIZE",
    local_rank=("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
    local_size=("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
)
_PYTORCH = _Launcher(
    name="PyTorch",
    rank="RANK",
    size="WORLD_SIZE",
    local_rank=("LOCAL_RANK",),
    # torchrun sets LOCAL_WORLD_SIZE, and leaves a LOCAL_SIZE of another launcher as it was.
    local_size=("LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A process among those that were started together."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int | None


def is_first_task(environ: Mapping[str, str]) -> bool:
    """Return whether this process should print an error that all of its peers find.

    A process whose variables make no sense prints it, too: it may be the only one.
    """
    try:
        task = find_task(environ)
    except InputError:
        return True
    return task is None or task.rank == 0


def find_task(environ: Mapping[str, str]) -> Task | None:
    """Return the task that the nearest launcher names; None for a process without a launcher."""
    if "RANK" in environ:
        return _task(_PYTORCH, environ)
    task = next((_task(mpi, environ) for mpi in _MPI if mpi.rank in environ), None)
    slurm = None if task else _slurm_task(environ)
    if task is None and _PMI.rank in environ:
        task = _task(_PMI, environ)
        if slurm is not None and (slurm.rank, slurm.size) == (task.rank, task.size):
            task = slurm  # Slurm also sets the local rank
    task = task or slurm
    if task is None and "PMIX_RANK" in environ and "SLURM_JOB_ID" not in environ:
        raise InputError(
            "PMIX_RANK is set in the environment, but nothing says how many tasks there are: set "
            "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each, or unset it"
        )
    size = number_in(environ, "WORLD_SIZE") if "WORLD_SIZE" in environ else None
    if size is not None and size != (1 if task is None else task.size):
        started = "no RANK" if task is None else f"{task.launcher} started {task.size} tasks"
        raise InputError(
            f"WORLD_SIZE is {size} in the environment, but there is {started}: start under "
            f"deepspeed, torchrun, srun or mpirun, or unset WORLD_SIZE"
        )
    return task


def _slurm_task(environ: Mapping[str, str]) -> Task | None:
    """Return the task that ``srun`` names; None in a batch script or a shell of an allocation.

    A batch script and a shell also have Slurm's variables, but only those of the whole job, not
    those of a step.
    """
    if "SLURM_PROCID" not in environ:
        return None
    in_step = "SLURM_STEP_NUM_TASKS" in environ
    if not in_step and number_in(environ, "SLURM_PROCID") == 0:
        return None  # another rank is one of several tasks, which must not train alone
    launcher = _Launcher(
        name="Slurm",
        rank="SLURM_PROCID",
        local_rank=("SLURM_LOCALID",),
        size="SLURM_STEP_NUM_TASKS" if in_step else "SLURM_NTASKS",
    )
    task = _task(launcher, environ)
    n_nodes = environ.get("SLURM_STEP_NUM_NODES")
    local_size = task.size if n_nodes == "1" else _slurm_local_size(environ)
    return replace(task, local_size=local_size)


def _slurm_local_size(environ: Mapping[str, str]) -> int | None:
    """Return the number of tasks on this node, from a list per node such as ``2(x3),1``."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part)
        if match is None:
            return None
        counts += [int(match[1])] * int(match[2] or 1)
    node = environ.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else None


def _task(launcher: _Launcher, environ: Mapping[str, str]) -> Task:
    if launcher.size not in environ:
        raise InputError(
            f"{launcher.rank} is set in the environment, but not {launcher.size}: start under "
            f"deepspeed, torchrun, srun or mpirun, or unset {launcher.rank} to run alone"
        )
    rank, size = number_in(environ, launcher.rank), number_in(environ, launcher.size)
    local_rank = _first_number(environ, launcher.local_rank)
    local_size = _first_number(environ, launcher.local_size)
    _refuse_beyond(launcher.rank, rank, size)
    if local_rank is not None and local_size is not None:
        _refuse_beyond("the local rank", local_rank, local_size)
    return Task(
        launcher=launcher.name,
        rank=rank,
        size=size,
        local_rank=local_rank or 0,
        local_size=local_size,
    )


def _refuse_beyond(name: str, number: int, size: int) -> None:
    if number >= size:
        raise InputError(
            f"{name} is {number} in the environment, but the tasks there are number 0 to "
            f"{size - 1}: correct or unset what sets it"
        )


def _first_number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((number_in(environ, name) for name in names if name in environ), None)


def number_in(environ: Mapping[str, str], name: str) -> int:
    """Read a variable that is set and must be a number.

    Raises:
        InputError: the variable is no number.
    """
    text = environ[name]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InputError(
            f"{name} is {printable(text, most=60)!r} in the environment, which is no number: "
            f"correct or unset it"
        )
    return int(text)


def complete_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the rendezvous variables of this process: a launcher's, or those of a lone process.

    If all ranks are on this host, gloo gets the loopback interface, unless the environment has one.

    Raises:
        InputError: several tasks cannot meet, or the variables contradict one another.
    """
    task = find_task(environ)
    if task is None or (task.launcher != _PYTORCH.name and task.size == 1):
        variables = _alone(environ)
    else:
        # Unknown is counted as one task per host, so that the ranks meet as on several hosts.
        local_size = 1 if task.local_size is None else task.local_size
        numbers = (task.rank, task.size, task.local_rank, local_size)
        variables = dict(
            zip(RENDEZVOUS, (*map(str, numbers), *_meeting(environ, task)), strict=True)
        )
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    is_one_host = variables["LOCAL_SIZE"] == variables["WORLD_SIZE"]
    if is_one_host and loopback and "GLOO_SOCKET_IFNAME" not in environ:
        variables["GLOO_SOCKET_IFNAME"] = loopback.pop()
    return variables


def _meeting(environ: Mapping[str, str], task: Task) -> tuple[str, str]:
    """Return the address and port at which the ranks meet."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing and task.launcher == _PYTORCH.name:
        raise InputError(
            f"RANK is set in the environment, but not {', '.join(missing)}: start under "
            f"deepspeed, torchrun, srun or mpirun, or unset RANK to run alone"
        )
    if missing:
        raise InputError(
            f"{missing[0]} is missing for {task.size} tasks of {task.launcher}: export MASTER_ADDR "
            f"(host of the first task) and MASTER_PORT (such as 29500), or start a single task"
        )
    if not 0 < number_in(environ, "MASTER_PORT") < 1 << 16:
        raise InputError(f"MASTER_PORT is {environ['MASTER_PORT']}, which is no port: 1 to 65535")
    return environ["MASTER_ADDR"], environ["MASTER_PORT"]


def _alone(environ: Mapping[str, str]) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return dict(zip(RENDEZVOUS, ("0", "1", "0", "1", "127.0.0.1", str(port)), strict=True))
