"""Twenty disturbances, drawn as the soak draws them; and that the soak finds what it looks for."""

import json
import re
import shutil
from pathlib import Path

import pytest
from disturbing.kinds import KINDS
from disturbing.plans import Plan, compared
from disturbing.tally import Disturbance, End, Following, Log
from disturbing.warm import WarmStarter
from soak import LOG, disturb
from training import ROOT, environment

SEED = 4
#: DeepSpeed file, launcher, whether ranks and stage change, and steps.
RUNS = (
    ("zero1_bf16", "warm", False, 260),
    ("zero2_fp32", "warm", True, 260),
    ("zero0_fp32", "torchrun", False, 100),
)


@pytest.fixture(scope="module")
def soaked(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Log, Path]:
    """The log of twenty disturbances; a corpus may be taken away, so it is one of its own."""
    folder = tmp_path_factory.mktemp("soak")
    own = Path(shutil.copytree(corpus, folder / "corpus"))
    starter = WarmStarter(environment())
    log = Log(folder / "log.jsonl")
    for run, (ds_config, launcher, is_elastic, max_steps) in enumerate(RUNS):
        plan = Plan(
            seed=SEED,
            run=run,
            ds_config=ds_config,
            launcher=launcher,
            is_elastic=is_elastic,
            max_steps=max_steps,
        )
        disturb(log, plan, folder=folder, corpus=own, starter=starter)
    starter.close()
    return log, folder


def test_twenty_disturbances_lose_nothing_and_change_nothing(soaked: tuple[Log, Path]) -> None:
    log, _ = soaked
    assert log.faults() == []
    assert len(log.disturbances) >= 20
    assert len({one.kind for one in log.disturbances}) >= 10
    assert {one.launcher for one in log.disturbances} == {"warm", "torchrun"}
    assert [end.run for end in log.ends] == [0, 1, 2]


@pytest.mark.parametrize("what", ["losses", "validations", "steps of losses", "tensors"])
def test_a_run_that_is_not_the_undisturbed_one_is_told(
    soaked: tuple[Log, Path], tmp_path: Path, what: str
) -> None:
    whole = next(soaked[1].glob("undisturbed zero1_bf16*[0-9]"))
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    assert compared(other, whole, is_elastic=False) == ([], 0.0)
    record, manifest = other / "metrics.jsonl", other / "checkpoints/step-00000260/manifest.json"
    if what == "tensors":
        files = json.loads(manifest.read_text())
        name = next(name for name in files["files"] if name.endswith("tensors"))
        files["files"][name]["xxh3_128"] = "0" * 32
        manifest.write_text(json.dumps(files))
    else:
        kind = "valid" if what == "validations" else "train"
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        at = [number for number, line in enumerate(lines) if line["kind"] == kind][-1]
        if what.startswith("steps"):
            del lines[at]
        else:
            lines[at][f"{kind}/loss"] *= 1 + 1e-15
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compared(other, whole, is_elastic=False)[0] == [what]


def test_only_a_difference_beyond_rounding_is_one_of_an_elastic_run(
    soaked: tuple[Log, Path], tmp_path: Path
) -> None:
    whole = next(soaked[1].glob("undisturbed zero1_bf16*[0-9]"))
    for factor, differs in ((1 + 1e-5, []), (1 + 1e-2, ["losses"])):
        other = Path(shutil.copytree(whole, tmp_path / str(factor)))
        lines = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
        at = [number for number, line in enumerate(lines) if line["kind"] == "train"][-1]
        lines[at]["train/loss"] *= factor
        (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        found, furthest = compared(other, whole, is_elastic=True)
        assert found == differs
        assert furthest == pytest.approx(factor - 1)


GOOD = Disturbance(
    seed=0,
    run=0,
    number=0,
    kind=KINDS[0].name,
    is_hard=True,
    launcher="warm",
    ranks=2,
    ds_config="zero0_fp32",
    step=35,
    ended="running",
    whole=30,
    resumed=30,
    seconds=1.0,
    orphans=0,
    hung=False,
)
END = End(
    seed=0,
    run=0,
    elastic=False,
    differs=[],
    kept=100,
    computed=105,
    strange=[],
    commit="0",
    versions="",
)


def test_a_log_goes_on_after_the_last_run_that_ended(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    for line in (GOOD, END, GOOD.model_copy(update={"run": 1})):
        log.add(line)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"what": "dist')  # the command was killed
    again = Log(tmp_path / "log.jsonl")
    assert (again.disturbances, again.ends, again.next_run(0)) == ([GOOD], [END], 1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (GOOD, None),
        (END, None),
        (GOOD.model_copy(update={"resumed": 20}), "10 steps lost"),
        (GOOD.model_copy(update={"orphans": 1}), "1 orphans"),
        (GOOD.model_copy(update={"hung": True}), "hung"),
        (END.model_copy(update={"differs": ["tensors"]}), "another tensors"),
        (END.model_copy(update={"strange": ["failed"]}), "by itself: failed"),
    ],
)
def test_what_must_not_be_is_told(
    tmp_path: Path, line: Disturbance | End, told: str | None
) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.add(line)
    assert [told in fault for fault in log.faults()] == [True] * (told is not None)


def test_a_record_is_followed_through_torn_lines_and_attempts(tmp_path: Path) -> None:
    record = Following(tmp_path / "metrics.jsonl")
    record.look()
    lines = [
        {"kind": "event", "event": "start", "attempt": 1, "step": 0},
        {"kind": "train", "attempt": 1, "step": 1},
        {"kind": "train", "attempt": 1, "step": 2},
        {"kind": "event", "event": "resume", "attempt": 2, "step": 1},
        {"kind": "train", "attempt": 2, "step": 2},
    ]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for line in lines[:3]:
            file.write(json.dumps(line) + "\n")
        file.write('{"kind": "tr')
        file.flush()
        record.look()
        assert (record.step, record.attempt) == (2, 1)
        file.write("\n" + "".join(json.dumps(line) + "\n" for line in lines[3:]))
    record.look()
    assert (record.step, record.n_computed, record.began) == (2, 3, {1: 0, 2: 1})


def test_the_pages_say_what_the_log_says() -> None:
    log = Log(LOG)
    page = LOG.with_name("README.md").read_text()
    assert log.faults() == []
    assert log.summary() in page
    assert all(row in page for row in log.table().splitlines())
    told = re.search(r"\[(\d+) disturbances of (\d+) kinds\]", (ROOT / "README.md").read_text())
    assert told is not None
    assert int(told[1]) == len(log.disturbances)
    assert int(told[2]) == len({one.kind for one in log.disturbances})
