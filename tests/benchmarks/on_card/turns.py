"""Speed, memory and the host's share of implementations that take turns on one card.

All start at once and stay. One that cannot run, ends or hangs is a row, and the others go on. After
the rounds each is asked for its host's time and for a profile, alone. Rows are told as soon as they
are known, for the card may be gone before the last.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measured.dims import CONFIGS
from measured.processes import Worker
from measured.variants import OURS_WORKER, Variant
from on_card.plan import planned_gib
from on_card.rows import Ask, Row, last_line, row

ROUNDS, WARM, LAUNCHED, PROFILED = 5, 6, 5, 3
#: How a refusal to capture begins; it is a result, not a failure.
REFUSED = "InputError: train.cuda_graph on: "
#: The part of the time that processes have to start and to be warm, and seconds to end.
START_FRAC, END_S = 0.6, 6


@dataclass
class Entrant:
    """An implementation in its process, as long as it goes well."""

    name: str
    variant: Variant
    worker: Worker | None = None
    error: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Answers, that of warming up first."""
    planned_gib: float | None = None
    """Of ours."""

    def start(self, task: dict[str, Any], folder: Path, *, deadline: float) -> None:
        """Start the process, and let it do its first steps, which compile and capture."""
        try:
            self.worker = Worker(self.variant, task, folder, deadline=deadline)
        except (SystemExit, OSError) as error:
            self._fail(error)
        self.step(WARM)

    def step(self, n_steps: int) -> None:
        """Do steps, and keep the answer."""
        answer = self.ask(steps=n_steps)
        if answer is not None:
            self.steps.append(answer)

    def ask(self, **what: int) -> dict[str, Any] | None:
        """Ask its process; None once that has gone wrong."""
        if self.worker is None:
            return None
        try:
            return self.worker.ask(**what)
        except (SystemExit, OSError, ValueError) as error:
            self._fail(error)
            return None

    def _fail(self, error: BaseException) -> None:
        print(f"{self.name}: {error}", file=sys.stderr)
        self.worker, self.error = None, last_line(str(error))


def speed(ask: Ask) -> Iterator[Row]:
    """Yield rows of a field; see `on_card.fields`."""
    began = time.monotonic()
    config, variants = ask.told["config"], [Variant(**told) for told in ask.told["variants"]]
    names = [f"{config}, {variant.name}" for variant in variants]
    entrants = [Entrant(*pair) for pair in zip(names, variants, strict=True)]
    end = began + ask.limit_s - END_S
    with tempfile.TemporaryDirectory() as folder:
        _start(entrants, ask, Path(folder), deadline=began + START_FRAC * ask.limit_s)
        for entrant in entrants:
            if entrant.worker is not None:
                entrant.worker.deadline = end
        yield from _rounds(entrants, ask, end=end)
        yield from _host(entrants)
        yield from _device(entrants)
        for entrant in entrants:
            if entrant.error:
                refused = REFUSED in entrant.error
                told = entrant.error.partition(REFUSED)[2] or entrant.error
                name = "not captured" if refused else "the row itself"
                yield row(entrant.name, name, told, ok=refused)
        with ThreadPoolExecutor(len(entrants)) as pool:
            for entrant in entrants:
                if entrant.worker is not None:
                    pool.submit(entrant.worker.close)


def _start(entrants: list[Entrant], ask: Ask, folder: Path, *, deadline: float) -> None:
    """Start all at once, and plan their memory meanwhile."""
    task = {
        "config": ask.told["config"],
        "device": ask.device,
        "mode": "train",
        "dropout": 0.1,
        "n_segments": WARM + ROUNDS * CONFIGS[ask.told["config"]].n_steps + LAUNCHED + PROFILED + 1,
        "style": "ours",
    }
    with ThreadPoolExecutor(len(entrants)) as pool:
        for entrant in entrants:
            pool.submit(entrant.start, task, folder, deadline=deadline)
        for entrant in entrants:
            if entrant.variant.script == OURS_WORKER:
                dims = CONFIGS[ask.told["config"]]
                entrant.planned_gib = planned_gib(dims, entrant.variant, device=ask.device)


def _rounds(entrants: list[Entrant], ask: Ask, *, end: float) -> Iterator[Row]:
    """Time all in turns, to and fro, as often as there is time for."""
    dims = CONFIGS[ask.told["config"]]
    longest_s = 0.0
    for turn in range(ROUNDS):
        began = time.monotonic()
        if began + 2 * longest_s > end and turn > 0:
            break
        for entrant in entrants[:: 1 if turn % 2 == 0 else -1]:
            entrant.step(dims.n_steps)
        longest_s = max(longest_s, time.monotonic() - began)
    for entrant in entrants:
        timed = [1e3 * answer["seconds"] / dims.n_steps for answer in entrant.steps[1:]]
        if not timed:
            continue
        losses = [loss for answer in entrant.steps for loss in answer["losses"]]
        finite = all(map(math.isfinite, losses))
        middle_ms = statistics.median(timed)
        tokens_per_s = 1e3 * dims.n_streams * dims.tgt_len / middle_ms
        found: dict[str, float | str | None] = {
            "tokens/s": tokens_per_s,
            "ms/step": middle_ms,
            "ms/step, least": min(timed),
            "ms/step, most": max(timed),
            "rounds": len(timed),
            "loss of the last step": losses[-1],
            "peak GiB": _most_gib(entrant, "peak_mib"),
            "reserved GiB": _most_gib(entrant, "reserved_mib"),
            "planned GiB": entrant.planned_gib,
            "predicted as": _predicted(entrant.variant, ask),
        }
        for name, value in found.items():
            if value is not None:
                yield row(entrant.name, name, value, ok=finite)


def _most_gib(entrant: Entrant, key: str) -> float | None:
    sizes = [answer[key] for answer in entrant.steps]
    return None if None in sizes else max(sizes) / 2**10


def _predicted(variant: Variant, ask: Ask) -> str | None:
    """Return the recipe whose prediction is of this row."""
    as_told = (variant.ds_config, variant.cuda_graph, variant.kernels)
    covers = as_told == ("zero0_bf16_autocast", "on", "auto") and variant.checkout == ""
    return ask.told["recipe"] or None if covers else None


def _host(entrants: list[Entrant]) -> Iterator[Row]:
    for entrant in entrants:
        answer = entrant.ask(launched=LAUNCHED)
        if answer is not None:
            yield row(entrant.name, "host ms/step", 1e3 * statistics.median(answer["seconds"]))


def _device(entrants: list[Entrant]) -> Iterator[Row]:
    for entrant in entrants:
        answer = entrant.ask(profiled=PROFILED)
        if answer is not None:
            yield row(entrant.name, "busy ms/step", 1e3 * answer["busy_seconds"])
            yield row(entrant.name, "kernels/step", answer["kernels"])
            yield row(entrant.name, "launches/step", answer["launches"])
