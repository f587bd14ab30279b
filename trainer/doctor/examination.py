"""Everything that `txl doctor` tries, in order."""

import platform
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import torch.distributed as dist

from trainer.budget.check import device_there
from trainer.budget.machine import of_host
from trainer.config.command_line.arguments import DoctorArguments
from trainer.distributed import Control, World, gather_objects, refuse_shared_gpus, this_process
from trainer.doctor import machine, together
from trainer.doctor.checks import Check, by_rank
from trainer.errors import InputError
from trainer.launchers import complete_environ
from trainer.meeting import meet
from trainer.training.opening import agree
from trainer.training.opening.plan import Plan, make_plan

#: The most seconds in which ranks must meet, and a collective must end.
WAIT_S = 60.0
#: The least free bytes for checkpoints, if no run is named.
_LEAST_BYTES = 1 << 30
#: The least free share of memory.
_LEAST_FREE = 0.05


def connect(arguments: DoctorArguments, environ: MutableMapping[str, str]) -> World:
    """Meet the other ranks, without DeepSpeed.

    Raises:
        InputError: they do not meet; says at which address, and what to do.
    """
    environ.update(complete_environ(environ))
    world = this_process(environ, device=arguments.device)
    if world.world_size == 1:
        return world
    train = arguments.train
    limit_s = WAIT_S if train is None else train.experiment.limits.distributed_timeout_s
    timeout = timedelta(seconds=min(WAIT_S, limit_s))
    meet(world, backend="nccl" if world.device.type == "cuda" else "gloo", timeout=timeout)
    return replace(world, control=Control(dist.new_group(backend="gloo", timeout=timeout)))


def examine(
    arguments: DoctorArguments, world: World, environ: MutableMapping[str, str]
) -> list[Check]:
    """Try everything; return the checks, the same on every rank. Collective."""
    plan, refusal = _planned(arguments, environ)
    folder = _folder(arguments.run_dir)
    checks = [_ranks(world, environ), _software(), *_agreement(arguments, plan, refusal, world)]
    checks += [_devices(world), _precisions(world), together.collectives(world)]
    checks += [together.shared_folder(folder, world), together.clocks(world)]
    return [*checks, _memory(plan, world), _disk(plan, folder, world)]


def _planned(
    arguments: DoctorArguments, environ: MutableMapping[str, str]
) -> tuple[Plan | None, str]:
    if arguments.train is None:
        return None, ""
    try:
        return make_plan(arguments.train, environ), ""
    except InputError as error:
        return None, str(error)


def _ranks(world: World, environ: Mapping[str, str]) -> Check:
    hosts = gather_objects(socket.gethostname(), world)
    told = f"{world.world_size} on {', '.join(dict.fromkeys(hosts))}"
    if world.world_size > 1:
        told += f", which met at {environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
    try:
        refuse_shared_gpus(world)
    except InputError as error:
        return Check(name="ranks", told=told, fix=str(error))
    return Check(name="ranks", told=told)


def _software() -> Check:
    names = ("txl-trainer", "torch", "deepspeed")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Check(name="software", told=f"Python {platform.python_version()}, {versions}")


def _agreement(
    arguments: DoctorArguments, plan: Plan | None, refusal: str, world: World
) -> list[Check]:
    """Compare what ranks would train, as a run does before it begins."""
    refusals = gather_objects(refusal, world)
    checks = [
        Check(name="run", told=f"rank {rank} is refused: {told}", fix="mend that on its host")
        for rank, told in enumerate(refusals)
        if told
    ][:1]
    if plan is None or checks:
        facts = agree.facts_of_software(arguments.train)
    else:
        facts = agree.facts_of_run(plan)
    found = agree.differences(facts, world)
    if not found:
        compared = ", ".join(part for part in facts if facts[part])
        checks.append(Check(name="agreement", told=f"the same on all ranks: {compared}"))
    return checks + [Check(name="agreement", told=one.told, fix=one.fix) for one in found]


def _devices(world: World) -> Check:
    return Check(
        name="device", told=by_rank(gather_objects(machine.device_of(world.device), world))
    )


def _precisions(world: World) -> Check:
    found = gather_objects(machine.precisions(world.device), world)
    wrong = by_rank([", ".join(names) or "none" for _, names in found])
    fix = "" if wrong == "none" else f"do not train in these, which compute wrongly: {wrong}"
    return Check(name="precision", told=by_rank([told for told, _ in found]), fix=fix)


def _memory(plan: Plan | None, world: World) -> Check:
    told, free = machine.memory()
    problem = "" if free >= _LEAST_FREE else "end what else runs there"
    if plan is not None and plan.budget is not None:
        there, device = of_host(), device_there(world)
        short = plan.budget.problem(there, n_sharing=plan.n_sharing, device=device)
        problem = short or problem
    found = gather_objects((told, problem), world)
    wrong = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(found) if problem]
    return Check(name="memory", told=by_rank([told for told, _ in found]), fix="; ".join(wrong))


def _disk(plan: Plan | None, folder: Path, world: World) -> Check:
    needed = _LEAST_BYTES
    if plan is not None and plan.budget is not None:
        kept = plan.arguments.experiment.checkpoint.keep_last + 2  # the best, and the one written
        needed = 12 * plan.budget.weights.total * kept
    found = gather_objects(machine.disk(folder, needed_bytes=needed), world)
    wrong = [f"rank {rank}: {fix}" for rank, (_, fix) in enumerate(found) if fix]
    return Check(name="disk", told=by_rank([told for told, _ in found]), fix="; ".join(wrong))


def _folder(run_dir: Path | None) -> Path:
    """Return the folder in which a run would write, or the one in which it would be made."""
    wanted = run_dir or Path("runs")
    return next(path for path in (wanted, *wanted.absolute().parents) if path.is_dir())
