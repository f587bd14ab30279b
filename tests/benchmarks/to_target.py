"""Trains a recipe to a target within minutes, and goes on from its checkpoint when called again.

    .venv/bin/python tests/benchmarks/to_target.py wt103-base --run-dir runs/target --minutes 9 \
        --ppl 60 -- --train.max-steps 12000 --valid.interval-steps 1000

For a GPU that is lent for some minutes at a time: a call trains with `launch/train.py` as users do
until a validation meets the target, all steps are done, or the call's minutes are nearly over. Then
the run saves and leaves, the best checkpoint so far is scored on the test split in the time that is
left, and a summary is printed and written beside the run, RUN_DIR.summary.json. The same command
goes on. Flags behind `--` are those of the training command.

The corpus is made by the first call: of `--text`, else of the books in `../shared/data/classics`,
else of what the quick start reads. A recipe with clusters gets words that occur twice or more,
another one BPE. To go on elsewhere carry what the summary lists: the corpus, the run's directory
with its newest and its best checkpoint (12 bytes per parameter each), and RUN_DIR.calls.json.

Exit codes are the product's: 0 the target is met, or without one all steps are done; 71 all steps
are done and it is missed; 75 to be continued; others are those of training.
"""

import argparse
import json
import math
import signal
import sys
import time
from pathlib import Path

from target.calls import (
    Call,
    Target,
    code_of,
    earlier_calls,
    evaluate,
    keep,
    status_of,
    train,
)
from target.summary import markdown, summary
from target.texts import corpus_at

from trainer.data.corpus import open_corpus
from trainer.errors import Exit, InputError

#: Seconds of a call's end that are no evaluation's, and that an evaluation has at least.
END_S, LEAST_S = 3.0, 10.0
#: Exit codes of calls after which there is something to evaluate.
SAVED = (Exit.DONE, Exit.EXPECTATION, Exit.REQUEUE, Exit.STOPPED)


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line, and the flags of training behind `--`."""
    flags: list[str] = []
    if "--" in argv:
        at = argv.index("--")
        argv, flags = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("recipe", nargs="?", default="wt103-base", help="a name or a path")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of this call")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--ppl", type=float, help="of the valid split, per token")
    goal.add_argument("--loss", type=float, help="of the valid split, nats per token")
    parser.add_argument("--data", type=Path, help="the corpus; by default RUN_DIR.corpus")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="what it is made of")
    parser.add_argument("--prepare", help="flags of txl prepare: the kind of vocabulary")
    parser.add_argument(
        "--reserve-s",
        type=float,
        default=60.0,
        help="seconds of a call that are for saving and evaluating",
    )
    parser.add_argument("--evaluate", default="", help="flags of txl eval; the recipe's lengths")
    parser.add_argument("--no-evaluation", action="store_true")
    told = parser.parse_args(argv)
    if told.minutes * 60 <= told.reserve_s:
        parser.error(f"--minutes {told.minutes:g} are no more than --reserve-s {told.reserve_s:g}")
    return told, flags


def call(told: argparse.Namespace, flags: list[str], *, deadline: float) -> int:
    """Train and evaluate; keep the call, and return its exit code."""
    run_dir, began = told.run_dir.resolve(), time.time()
    data = (told.data or run_dir.with_name(f"{run_dir.name}.corpus")).resolve()
    loss = told.loss if told.ppl is None else math.log(told.ppl)
    target, calls = Target(loss=loss), earlier_calls(run_dir)

    def left_s(*, spared_s: float = END_S) -> float:
        return deadline - spared_s - time.monotonic()

    run_dir.parent.mkdir(parents=True, exist_ok=True)
    corpus = corpus_at(data, told.text, recipe=told.recipe, prepare=told.prepare, limit_s=left_s())
    trained = int(Exit.REQUEUE)
    if not target.is_met(run_dir) and left_s(spared_s=told.reserve_s) > 0:
        trained = train(
            told.recipe,
            corpus,
            run_dir,
            flags=flags,
            target=target,
            limit_s=left_s(spared_s=told.reserve_s),
            kill_s=left_s(),
        )
    code = code_of(run_dir, target, trained=trained)
    status = status_of(run_dir)
    has_saved = code in SAVED and status is not None and status.step > 0
    if has_saved and not told.no_evaluation and "test" in open_corpus(corpus).splits:
        wrong = "no time is left"
        if left_s() > LEAST_S:
            wrong = evaluate(run_dir, told.evaluate.split(), limit_s=left_s())
        if wrong:
            print(f"not evaluated: {wrong}", flush=True)
    calls.append(Call(began=began, ended=time.time(), code=trained))
    keep(run_dir, calls)
    found = summary(run_dir, corpus, calls, target=target, code=code)
    file = run_dir.with_name(f"{run_dir.name}.summary.json")
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{markdown(found, ['python', *sys.argv])}")
    return code


def main() -> int:
    """Do a call; a signal lets the run save."""
    began = time.monotonic()
    told, flags = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.REQUEUE))
    try:
        return int(call(told, flags, deadline=began + 60 * told.minutes))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(Exit.BAD_INPUT)


if __name__ == "__main__":
    sys.exit(main())
