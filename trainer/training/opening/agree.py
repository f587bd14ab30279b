"""Making sure, before anything is written, that all ranks would train the same in the same way.

Each rank reads its own files. If hosts have other copies of them, a run trains on a mixture and
nobody notices.
"""

import hashlib
import importlib.util
import json
import platform
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from trainer.config.command_line.arguments import TrainArguments
from trainer.distributed import World, gather_objects, this_process
from trainer.engine import deepspeed
from trainer.errors import InputError, LoneRefusalError, first_few
from trainer.outside import printable
from trainer.training.opening.plan import Plan
from trainer.training.opening.rundir import PACKAGES

#: By what may differ: how to mend it.
_FIXES = {
    "corpus": "give all ranks the same --data",
    "configuration": "give all ranks the same recipe and flags",
    "DeepSpeed file": "give all ranks the same --deepspeed-config",
    "versions": "install the same versions on all hosts, as constraints.txt lists them",
    "code": "give all hosts the same checkout",
    "model factory": "give all hosts the same file",
}
#: The most differences, and ranks, that one line names.
_MOST_NAMED = 3
#: Of our packages, the one that rank 0 alone uses.
_OF_RANK_0 = "wandb"

#: Seconds in which a rank that is refused waits for others, to tell them.
REFUSED_S = 60.0


class Difference(NamedTuple):
    """One part in which one rank differs from rank 0."""

    told: str
    """Both ranks and hosts, and what each has."""
    fix: str

    def __str__(self) -> str:
        return f"{self.told}; {self.fix}"


Facts = dict[str, dict[str, str]]
"""By what may differ, names and values."""


def refuse_different(facts: Facts, world: World) -> None:
    """Refuse ranks that have other `facts` than rank 0. Collective.

    Raises:
        InputError: on every rank; names ranks, hosts and what differs.
    """
    found = differences(facts, world)
    if found:
        told = first_few([str(one) for one in found], most=_MOST_NAMED)
        raise InputError(f"the ranks would not train the same: {told}")


def differences(facts: Facts, world: World) -> list[Difference]:
    """Return what differs from rank 0, by part and rank. Collective.

    First only hashes are exchanged, for a configuration and a list of source files are long.
    """
    digests = gather_objects({part: _digest(values) for part, values in facts.items()}, world)
    unequal = [part for part in facts if len({own.get(part) for own in digests}) > 1]
    if not unequal:
        return []
    own = (socket.gethostname(), {part: facts[part] for part in unequal})
    everyones = gather_objects(own, world)
    first_host, first = everyones[0]
    return [
        Difference(
            f"rank {rank} ({printable(host, most=80)}) differs from rank 0 "
            f"({printable(first_host, most=80)}) in its {part}: "
            f"{_told(others[part], first[part])}",
            _FIXES[part],
        )
        for part in unequal
        for rank, (host, others) in enumerate(everyones)
        if others[part] != first[part]
    ]


def refuse_all(error: InputError, arguments: TrainArguments, environ: Mapping[str, str]) -> None:
    """Raise a refusal of this rank on all ranks, since its host may lack what theirs have.

    Rank 0 is ended by its own error, and a launcher then ends the others.

    Raises:
        InputError: on every rank; names this one.
        LoneRefusalError: no other rank came to hear of it.
    """
    world = this_process(environ, device=arguments.device)
    if world.is_main or arguments.dry_run:
        return
    told = f"rank {world.rank} ({socket.gethostname()}): {error}"
    try:
        world = deepspeed.connect(world, timeout_s=REFUSED_S)
    except InputError:
        raise LoneRefusalError(told) from None
    hear_refusals(world, own=told)


def hear_refusals(world: World, *, own: str | None = None) -> None:
    """Raise the refusal of the lowest rank that is refused. Collective.

    Raises:
        InputError: on every rank.
    """
    for told in gather_objects(own, world):
        if told is not None:
            raise InputError(told)


def facts_of_run(plan: Plan) -> Facts:
    """Return what this rank would train, and how."""
    experiment, corpus = plan.arguments.experiment, plan.corpus
    return {
        "corpus": {"corpus": f"{corpus.name} {corpus.hash[:12]}", "hash": corpus.hash},
        "configuration": _flat(experiment.model_dump(mode="json")),
        "DeepSpeed file": _flat(plan.resolved.values),
        **facts_of_software(plan.arguments),
    }


def facts_of_software(arguments: TrainArguments | None) -> Facts:
    """Return with what this rank would train."""
    packages = ("txl-trainer", *(name for name in PACKAGES if name != _OF_RANK_0))
    versions = {name: _version(name) for name in packages}
    factory = None if arguments is None else arguments.experiment.model.factory
    return {
        "versions": {"python": platform.python_version(), **versions},
        "code": _sources(Path(__file__).parents[2]),
        "model factory": {} if factory is None else {factory: _source_of(factory)},
    }


def _told(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    names = [name for name in {**there, **here} if here.get(name) != there.get(name)]
    more = f" ({len(names) - 1:,} more differ)" if len(names) > 1 else ""
    return f"{names[0]} is {_shown(here, names[0])}, there {_shown(there, names[0])}{more}"


def _shown(values: Mapping[str, str], name: str) -> str:
    return printable(values.get(name, "missing"), most=80)


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of a tree of dictionaries by their dotted paths, as JSON."""
    if not isinstance(values, dict) or not values:
        return {prefix: json.dumps(values)}
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sources(folder: Path) -> dict[str, str]:
    """Return a hash of each of the package's source files by its path."""
    files = sorted(path for path in folder.rglob("*.py") if path.is_file())
    return {str(path.relative_to(folder.parent)): _hash(path) for path in files}


def _source_of(factory: str) -> str:
    """Return the hash of the file of a model factory, or why it is not found."""
    try:
        spec = importlib.util.find_spec(factory.partition(":")[0])
    except (ImportError, ValueError):
        spec = None
    return _hash(Path(spec.origin)) if spec is not None and spec.origin else "not found"


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        return error.strerror or "unreadable"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
