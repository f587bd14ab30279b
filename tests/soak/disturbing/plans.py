"""Plans of runs to disturb; and what a disturbed run is held against, which nobody disturbs."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from training import KINDS as KINDS_OF_FILES
from training import Case, checkpoint_hashes, losses

from disturbing.jobs import WARM, Job
from disturbing.warm import WarmStarter
from trainer import read_metrics
from trainer.track.run_files.status import read_status

#: The run's own limit on a rank that finishes nothing.
LIMIT_S = 15.0
#: DeepSpeed files among which an elastic run changes.
ELASTIC = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
#: What sums in another order may change of a loss, relative to it, by the end of an elastic run.
ELASTIC_TOLERANCE = 1e-3
_LOOK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's number and settings."""

    seed: int
    run: int
    ds_config: str
    launcher: str
    is_elastic: bool
    max_steps: int

    @classmethod
    def drawn(cls, seed: int, run: int, *, launchers: Sequence[str], max_steps: int) -> "Plan":
        """Return the plan of a seed's run: a quarter under a launcher, a fifth elastic.

        Under a launcher no run computes in fp16, which few processors do by themselves.
        """
        draw = Random(f"plan {seed}/{run}")
        real = [launcher for launcher in launchers if launcher != WARM]
        is_real = bool(real) and (run % 4 == 3 or WARM not in launchers)
        launcher = real[run // 4 % len(real)] if is_real else WARM
        is_elastic = draw.random() < 0.2
        files = [kind for kind in KINDS_OF_FILES if launcher == WARM or "fp16" not in kind]
        return cls(
            seed=seed,
            run=run,
            ds_config=draw.choice(ELASTIC if is_elastic else files),
            launcher=launcher,
            is_elastic=is_elastic,
            max_steps=max_steps,
        )

    def flags(self, *more: str) -> list[str]:
        """Return the flags that make a run of the tests fit to be disturbed."""
        return [
            *("--train.max-steps", str(self.max_steps)),
            *("--checkpoint.interval-steps", "10", "--checkpoint.keep-last", "3"),
            *("--valid.interval-steps", "100"),
            *("--limits.distributed-timeout-s", str(LIMIT_S)),
            *("--model.factory", "disturbed_model:build"),
            # At the rate of the tests rounding grows until losses differ in their third digit.
            *(("--optim.lr", "1e-3") if self.is_elastic else ()),
            *more,
        ]


def undisturbed(plan: Plan, *, folder: Path, corpus: Path, starter: WarmStarter) -> Path:
    """Return the directory of a run like that of the plan that nobody disturbs."""
    how = "elastic" if plan.is_elastic else "as it is"
    run_dir = folder / f"undisturbed {plan.ds_config} {how} {plan.max_steps}"
    if not run_dir.exists():
        draft = run_dir.with_name(f"{run_dir.name} draft")
        shutil.rmtree(draft, ignore_errors=True)
        case = Case(draft, ds_config=plan.ds_config, flags=plan.flags())
        said = folder / f"{run_dir.name}.out"
        job = Job(WARM, case.argv(corpus), n_ranks=2, said=said, starter=starter)
        while not job.has_ended():
            time.sleep(_LOOK_S)
        status = read_status(draft)
        if status is None or status.state != "done":
            raise RuntimeError(f"{run_dir.name} did not end: {said.read_text()[-2000:]}")
        draft.rename(run_dir)
    return run_dir


def compared(run_dir: Path, reference: Path, *, is_elastic: bool) -> tuple[list[str], float]:
    """Return what of a run is not that of the other, and the largest difference of a loss.

    Bit for bit; of an elastic run within `ELASTIC_TOLERANCE`, and without its tensors.
    """
    differs, furthest = [], 0.0
    for what, values in (("losses", losses), ("validations", _validations)):
        found, expected = values(run_dir), values(reference)
        if found == expected:
            continue
        if found.keys() != expected.keys():
            differs.append(f"steps of {what}")
            continue
        off = max(abs(found[step] / expected[step] - 1) for step in expected)
        furthest = max(furthest, off)
        if not is_elastic or not off < ELASTIC_TOLERANCE:
            differs.append(what)
    last = max(losses(reference))
    if not is_elastic and checkpoint_hashes(run_dir, last) != checkpoint_hashes(reference, last):
        differs.append("tensors")
    return differs, furthest


def _validations(run_dir: Path) -> dict[int, float]:
    return {r["step"]: r["valid/loss"] for r in read_metrics(run_dir, kind="valid")}
