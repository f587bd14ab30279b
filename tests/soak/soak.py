"""Disturbs trainings by the hundred, and holds each against the same training undisturbed.

    python tests/soak/soak.py --disturbances 500            # goes on where the log ends
    python tests/soak/soak.py --table                       # of the log alone
    python tests/soak/soak.py --launchers warm torchrun --seed 7 --log /tmp/soak.jsonl

Real trainings of two ranks, of all stages and precisions, are killed, stopped, frozen, starved and
damaged every 20 to 40 steps, and started again by the same command, until they are done. Then
losses, validations and all tensors must be those of a run that nobody disturbed, bit for bit; where
ranks or stage changed on the way, within rounding. The log has a line for each disturbance. A run
that was broken off begins again. srun needs a Slurm cluster of two nodes.
"""

import argparse
import functools
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SUPPORT = TESTS / "support"
ROOMS = [SUPPORT / room for room in ("runs", "texts", "models", "faulty_models")]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "soak"), *map(str, ROOMS)]

import torch  # noqa: E402
from disturbing.jobs import REAL, WARM, missing  # noqa: E402
from disturbing.plans import Plan, compared, undisturbed  # noqa: E402
from disturbing.runs import Disturbed  # noqa: E402
from disturbing.tally import Disturbance, End, Log  # noqa: E402
from disturbing.warm import WarmStarter  # noqa: E402
from training import environment, make_corpus  # noqa: E402

LOG = Path(__file__).with_name("log.jsonl")


def disturb(log: Log, plan: Plan, *, folder: Path, corpus: Path, starter: WarmStarter) -> End:
    """Disturb a run until it is done, and return what it is beside an undisturbed one."""
    where = {"folder": folder, "corpus": corpus, "starter": starter}
    reference = undisturbed(plan, **where)
    run = Disturbed(plan, log=functools.partial(_tell, log), **where)
    run.to_the_end()
    differs, furthest = compared(run.run_dir, reference, is_elastic=plan.is_elastic)
    end = End(
        seed=plan.seed,
        run=plan.run,
        elastic=plan.is_elastic,
        differs=differs,
        kept=plan.max_steps,
        computed=run.n_computed,
        strange=run.strange,
        commit=_commit(),
        versions=f"torch {torch.__version__}, Python {platform.python_version()}",
        furthest=furthest,
    )
    log.add(end)
    if not differs and not run.strange:
        shutil.rmtree(run.run_dir)
    return end


def _tell(log: Log, one: Disturbance) -> None:
    log.add(one)
    print(
        f"run {one.run} ({one.launcher}, {one.ds_config}) at step {one.step}: {one.kind}; "
        f"{one.ended}; on from {one.resumed} after {one.seconds:.1f} s",
        flush=True,
    )


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--disturbances", type=int, default=2000, help="in the log, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="of a run")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--launchers", nargs="+", choices=(WARM, *REAL), default=(WARM, *REAL))
    parser.add_argument("--folder", type=Path, help="for the runs; those that differ stay there")
    parser.add_argument("--table", action="store_true", help="print the table of the log alone")
    options = parser.parse_args()
    log = Log(options.log)
    if not options.table:
        for launcher in options.launchers:
            if needs := missing(launcher):
                parser.error(f"{launcher} needs {needs}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            corpus = folder / "corpus"
            if not corpus.exists():
                make_corpus(corpus)
            starter = WarmStarter(environment())
            while len(log.disturbances) < options.disturbances:
                plan = Plan.drawn(
                    options.seed,
                    log.next_run(options.seed),
                    launchers=options.launchers,
                    max_steps=options.steps,
                )
                disturb(log, plan, folder=folder, corpus=corpus, starter=starter)
                print(log.summary(), flush=True)
            starter.close()
    print(log.table())
    for fault in log.faults():
        print(f"FAULT: {fault}")
    sys.exit(bool(log.faults()))


if __name__ == "__main__":
    main()
