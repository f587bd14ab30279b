"""The script for a GPU: what fails is a row and an exit code, and the rest goes on."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from training import ROOT, environment

BENCHMARKS = ROOT / "tests" / "benchmarks"
#: A worker that computes nothing; its variant's name says what becomes of it.
WORKER = """
import json, signal, sys
name = json.load(open(sys.argv[1]))["name"]
if name == "refused":
    sys.exit("trainer.errors.InputError: train.cuda_graph on: no graph of that")
print(json.dumps({"ready": True}), flush=True)
answers = {"launched": {"seconds": [0.003, 0.001, 0.002]},
           "profiled": {"busy_seconds": 0.004, "kernels": 9, "launches": 1}}
for n_asked, line in enumerate(sys.stdin):
    ((what, n),) = json.loads(line).items()
    if name == "ends" and n_asked == 3:
        sys.exit("KeyError: 'what it lacks'")
    if name == "hangs":
        signal.pause()
    steps = {"seconds": n * (n_asked or 9) / 1e3, "losses": [1.0], "peak_mib": 2048 - n_asked,
             "reserved_mib": None}
    print(json.dumps(answers.get(what, steps)), flush=True)
"""


@pytest.fixture(scope="module")
def here() -> Iterator[SimpleNamespace]:
    """Yield the modules that the script is made of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from measured.variants import Variant
        from on_card import jobs, rows, table, turns

        yield SimpleNamespace(jobs=jobs, rows=rows, table=table, turns=turns, Variant=Variant)


def rows_of(path: Path, *flags: str) -> tuple[int, list[dict], str]:
    """Exit code, rows and output of a run that needs no GPU."""
    command = [sys.executable, BENCHMARKS / "card.py", "--device", "cpu", "--out", path, *flags]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    rows = json.loads(path.read_text())
    assert f"{len(rows)} rows" in done.stdout, done.stderr
    return done.returncode, rows, done.stdout


def test_what_parts_find_is_told_though_one_fails_and_calls_make_one_table(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    flags = ["--only", "speed|products", "--skip", "GPT|Hugging", "--peer", f"nvidia={tmp_path}"]
    code, rows, said = rows_of(first, *flags)
    assert code == 1
    failed = [row["value"] for row in rows if not row["ok"]]
    assert len(failed) == said.count("**failed**: ") == 2
    assert all("has no mem_transformer.py" in value for value in failed)
    assert "has no mem_transformer.py" in first.with_suffix(".log").read_text()
    found = {(row["part"], row["name"]): row["value"] for row in rows}
    ours = "toy, ours, zero0_fp32, captured"
    assert found[ours, "tokens/s"] == pytest.approx(13 * 6 * 1e3 / found[ours, "ms/step"])
    assert found[ours, "ms/step, least"] <= found[ours, "ms/step"] <= found[ours, "ms/step, most"]
    assert all(found[ours, f"{name} ms/step"] > 0 for name in ("host", "busy"))
    assert 0 < found[ours, "planned GiB"] < 1
    refusal = found["toy, ours, zero3_fp32, captured", "not captured"]
    assert refusal.endswith("or use --train.cuda-graph auto")
    assert sum(part == "products" for part, _ in found) == 4

    code, _, _ = rows_of(second, "--only", "environment")
    assert code == 0
    command = [sys.executable, BENCHMARKS / "card.py", "--table", first, second]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"| {ours} | {found[ours, 'tokens/s']:,.0f} |" in done.stdout
    assert "torch 2" in done.stdout


def test_an_implementation_that_cannot_run_ends_or_hangs_leaves_the_others_their_turns(
    here: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    names = ("well", "refused", "ends", "hangs")
    variants = [here.Variant(name=name, script=str(tmp_path / "worker.py")) for name in names]
    monkeypatch.setattr(here.turns, "END_S", 0)
    told = {"config": "tiny", "recipe": "", "variants": [asdict(one) for one in variants]}
    rows = list(here.turns.speed(here.rows.Ask("cpu", 8, told)))
    found = {(row.part.removeprefix("tiny, "), row.name): row for row in rows}
    # Its rounds took 1, 2 … 5 ms a step, and were two steps each.
    assert found["well", "ms/step"].value == pytest.approx(3)
    assert found["well", "ms/step, most"].value == pytest.approx(5)
    assert found["well", "tokens/s"].value == pytest.approx(16 * 64 / 0.003)
    assert found["well", "peak GiB"].value == 2, "that of warming up counts, too"
    assert found["well", "host ms/step"].value == pytest.approx(2)
    assert found["well", "busy ms/step"].value == pytest.approx(4)
    assert found["ends", "rounds"].value == 2
    assert not any(name == "the row itself" for part, name in found if part == "well")
    told_of = {
        "refused": ("not captured", "no graph of that", True),
        "ends": ("the row itself", "KeyError: 'what it lacks'", False),
        "hangs": ("the row itself", "a worker took too long", False),
    }
    for part, (name, value, ok) in told_of.items():
        assert (found[part, name].value, found[part, name].ok) == (value, ok)


def test_a_part_that_takes_too_long_keeps_what_it_has_found(
    here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps(asdict(here.rows.row("part", "found", 1.0)))
    code = f"import signal; print({told!r}, flush=True); signal.pause()"
    monkeypatch.setattr(here.jobs.Job, "_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(here.jobs, "LEAST_S", 0)
    job = here.jobs.Job(name="slow", part="speed", limit_s=2)
    found, said = job.rows("cpu", deadline=time.monotonic() + 60)
    assert said == "took longer than 2 s"
    assert [(row.part, row.name, row.ok) for row in found[:2]] == [
        ("part", "found", True),
        ("slow", "the part itself", False),
    ]
    assert found[1].value == "took longer than 2 s"
    (late,), _ = job.rows("cpu", deadline=time.monotonic() - 1)
    assert late.value == "there was no time left for it"


@pytest.mark.parametrize(
    ("said", "code", "ok"),
    [
        ("3 passed, 1 skipped in 1.0s", 0, True),
        ("35 skipped in 1.0s", 0, False),
        ("1 failed", 1, False),
    ],
)
def test_tests_that_are_all_skipped_have_tested_nothing(
    here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, said: str, code: int, ok: bool
) -> None:
    command = [sys.executable, "-c", f"print({said!r}); exit({code})"]
    monkeypatch.setattr(here.jobs.Job, "_command", lambda *_: command)
    job = here.jobs.Job(name="kernels", tests=("tests",), limit_s=60)
    (found, _), words = job.rows("cpu", deadline=time.monotonic() + 60)
    assert (found.value, found.ok, words == "") == (said, ok, ok)


def test_the_tests_that_a_card_is_to_run_are_there(here: SimpleNamespace) -> None:
    from card import CHECKS

    paths = [path for job in CHECKS for path in job.tests if path.startswith("tests")]
    assert len(paths) >= 5
    assert all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize(
    ("card", "told"),
    [("NVIDIA H100 80GB HBM3", "20.0 | 1.50 |"), ("NVIDIA GH200 480GB", "– | – |")],
)
def test_a_prediction_stands_beside_what_it_is_of_on_a_card_it_knows(
    here: SimpleNamespace, card: str, told: str
) -> None:
    row = here.rows.row
    rows = [
        row("environment", "card", card),
        row("prediction", "wt103-base, H100", 20.0),
        row("prediction", "wt103-base, H200", 10.0),
        row("prediction", "wt103-large, H100", 90.0),
        row("captured", "ms/step", 25.0),
        row("captured", "ms/step", 30.0),
        row("captured", "predicted as", "wt103-base"),
        row("usual", "ms/step", 30.0),
    ]
    lines = here.table.markdown(rows).splitlines()
    (captured,) = [line for line in lines if line.startswith("| captured")]
    (usual,) = [line for line in lines if line.startswith("| usual")]
    assert captured.endswith(told)
    assert usual.endswith("– | – |")
