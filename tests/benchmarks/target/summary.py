"""What a run to a target has come to, over all its calls: for people as Markdown, and as JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from target.calls import Call, Target, calls_file, status_of, validations

from trainer import read_metrics
from trainer.errors import Exit
from trainer.shell import command
from trainer.track.perplexity import perplexity
from trainer.track.run_files.results import FOLDER

#: What a call that ends with a code has come to.
ENDS = {
    Exit.DONE: "the target is met, or all steps are done",
    Exit.EXPECTATION: "all steps are done, and the target is missed",
    Exit.REQUEUE: "to be continued: the same command goes on",
    Exit.STOPPED: "stopped by its user: the same command goes on",
}
#: Rows of the curve that are shown; all of it is in the JSON.
SHOWN = 20


def summary(
    run_dir: Path, corpus: Path, calls: list[Call], *, target: Target, code: int
) -> dict[str, Any]:
    """Return all that is known of a run, and of what has to be carried to where it goes on."""
    status, curve = status_of(run_dir), list(_curve(run_dir, calls))
    known = [row for row in curve if row["valid_loss"] is not None]
    best = min(known, key=lambda row: row["valid_loss"], default=None)
    result = {} if status is None or status.result is None else status.result
    return {
        "run_dir": str(run_dir),
        "code": int(code),
        "came_to": ENDS.get(Exit(code)) if code in ENDS else f"training ended with {code}",
        "target_loss": target.loss,
        "calls": len(calls),
        "minutes": sum(call.ended - call.began for call in calls) / 60,
        "step": None if status is None else status.step,
        "tokens": result.get("tokens"),
        "tokens_per_s": result.get("throughput/tokens_per_s"),
        "best": best,
        "curve": curve,
        "evaluations": [json.loads(file.read_text()) for file in _evaluations(run_dir)],
        "to_carry": _to_carry(run_dir, corpus),
    }


def _curve(run_dir: Path, calls: list[Call]) -> Iterator[dict[str, Any]]:
    """Yield validations, with the minutes of calls and the training loss until then."""
    trained = list(read_metrics(run_dir, kind="train")) if validations(run_dir) else []
    for record in validations(run_dir):
        before = [one["train/loss"] for one in trained if one["step"] <= record["step"]]
        seconds = [max(0.0, min(call.ended, record["time"]) - call.began) for call in calls]
        yield {
            "step": record["step"],
            "tokens": record["tokens"],
            "minutes": sum(seconds) / 60,
            "train_loss": before[-1] if before else None,
            "valid_loss": record["valid/loss"],
        }


def _evaluations(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).glob("*.json"))


def _to_carry(run_dir: Path, corpus: Path) -> list[dict[str, Any]]:
    """Return the folders that the next call needs, and the sizes of their files."""
    found = []
    checkpoints = run_dir / "checkpoints"
    for path in (corpus, run_dir, *sorted(checkpoints.glob("step-*")), calls_file(run_dir)):
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        sizes = [file.stat().st_size for file in files]
        mib = {"mib": sum(sizes) / 2**20, "largest_file_mib": max(sizes, default=0) / 2**20}
        found.append({"path": str(path), "files": len(files), **mib})
    return found


def markdown(told: dict[str, Any], again: list[str]) -> str:
    """Return a summary for people; `again` is the command that goes on."""
    best = told["best"]
    lines = [
        f"**{told['came_to']}** ({told['run_dir']})",
        "",
        "| calls | minutes | step | tokens | tokens/s in steps | best valid loss | ppl | at step |",
        "|---|---|---|---|---|---|---|---|",
        f"| {told['calls']} | {told['minutes']:.1f} | {_number(told['step'])} "
        f"| {_number(told['tokens'])} | {_number(told['tokens_per_s'])} "
        + (
            f"| {best['valid_loss']:.4f} | {perplexity(best['valid_loss']):,.2f} "
            f"| {best['step']:,} |"
            if best
            else "| – | – | – |"
        ),
        "",
        "| step | tokens | minutes | train loss | valid loss | valid ppl |",
        "|---|---|---|---|---|---|",
        *map(_curve_line, _some(told["curve"], best)),
        "",
        "| test, checkpoint | tgt_len/mem_len/clamp_len | loss | ppl | ppl per word |",
        "|---|---|---|---|---|",
        *map(_evaluation_line, told["evaluations"]),
        "",
        "| to carry to where it goes on | files | MiB | largest file, MiB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['path']} | {one['files']} | {one['mib']:,.1f} | {one['largest_file_mib']:,.1f} |"
        for one in told["to_carry"]
    ]
    if told["code"] in (Exit.REQUEUE, Exit.STOPPED):
        lines += ["", f"go on: {command(*again)}"]
    return "\n".join(lines)


def _some(curve: list[dict[str, Any]], best: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return some rows, evenly, the last and the best among them."""
    every = -(-len(curve) // SHOWN) or 1
    return [row for n, row in enumerate(reversed(curve)) if n % every == 0 or row is best][::-1]


def _curve_line(row: dict[str, Any]) -> str:
    train, valid = row["train_loss"], row["valid_loss"]
    cells = [
        f"{row['step']:,}",
        f"{row['tokens']:,}",
        f"{row['minutes']:.1f}",
        "–" if train is None else f"{train:.4f}",
        "–" if valid is None else f"{valid:.4f}",
        "–" if valid is None else f"{perplexity(valid):,.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _evaluation_line(result: dict[str, Any]) -> str:
    lengths = result["settings"]
    words = "/".join(str(lengths.get(name)) for name in ("tgt_len", "mem_len", "clamp_len"))
    numbers = [
        "–" if result.get(name) is None else f"{result[name]:,.4f}"
        for name in ("loss", "ppl", "ppl_word")
    ]
    return f"| {result['checkpoint']} | {words} | {' | '.join(numbers)} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
