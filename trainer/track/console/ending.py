"""The last lines of an attempt at a run: results, time, where things are, and what comes next."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from trainer.shell import command, program
from trainer.track.perplexity import perplexity, shown_perplexity
from trainer.track.run_files.status import RunState, Status
from trainer.wording import counted, human_count, human_seconds

_ENDED: dict[RunState, str] = {
    "done": "done",
    "requeue": "interrupted",
    "stopped": "stopped",
    "failed": "failed",
}


class Last(NamedTuple):
    """The newest record of steps, or of a validation, as far as it is shown at the end."""

    step: int
    loss: float | None
    ppl: float | None

    @classmethod
    def of(cls, values: Mapping[str, Any], *, part: str, step: int) -> "Last":
        """Return the record's own numbers; `part` is ``train`` or ``valid``."""
        return cls(step, values.get(f"{part}/loss"), values.get(f"{part}/ppl"))

    def __str__(self) -> str:
        loss = "?" if self.loss is None else f"{self.loss:.4f}"
        ppl = "" if self.ppl is None else f", ppl {shown_perplexity(self.ppl)}"
        return f"loss {loss}{ppl} at step {self.step:,}"


def ending(
    status: Status,
    last: Mapping[str, Last],
    *,
    run: str,
    splits: tuple[str, ...],
    seconds: float | None = None,
) -> Iterator[str]:
    """Yield the last lines of an attempt.

    Args:
        status: how it ended, with its results.
        last: the newest records of ``train`` and ``valid``; one that is missing is left out.
        run: the run's directory, as it is typed.
        splits: the splits of the corpus.
        seconds: how long the attempt took, from its first step on; None is not said.
    """
    result = status.result or {}
    steps = f"{status.step:,} of {status.max_steps + status.step - status.update:,} steps"
    tokens, rate = result.get("tokens"), result.get("throughput/tokens_per_s")
    per_device = result.get("throughput/tokens_per_s_per_device")
    speed = f", {human_count(rate)} tok/s in steps" if isinstance(rate, float | int) else ""
    if isinstance(per_device, float | int) and per_device != rate:
        speed += f", {human_count(per_device)} per device"
    mfu = result.get("throughput/mfu")
    speed += f", mfu {mfu:.1%}" if isinstance(mfu, float | int) else ""
    read = f"{counted(tokens, 'token')} read{speed}" if isinstance(tokens, int) else ""
    took = "" if seconds is None else f", this attempt took {human_seconds(seconds)}"
    head = f"{_ENDED.get(status.state, status.state)}: {steps}{took}"
    yield f"{head}; {read}" if read else head
    for part, record in last.items():
        yield f"last {part} {record}"
    loss, step = result.get("valid/best_loss"), result.get("valid/best_step")
    if isinstance(loss, float | int) and isinstance(step, int):
        yield f"best valid {Last(step, loss, perplexity(loss))}"
    yield f"all of it is in {run}: metrics.jsonl, checkpoints, logs"
    yield from _next(status.state, run=run, splits=splits)


def _next(state: RunState, *, run: str, splits: tuple[str, ...]) -> Iterator[str]:
    if state != "done":
        yield f"to go on: run the same command again, with --run-dir {command(run)}"
    txl = program("txl")
    scored = next((split for split in ("test", "valid") if split in splits), None)
    if scored is not None:
        yield f"to score it: {command(txl, 'eval', run, '--split', scored)}"
    yield f"to let it write: {command(txl, 'generate', run)}"
