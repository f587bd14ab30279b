"""Runs that differ in their seed alone are one row, beside what was published of their recipe."""

from pathlib import Path
from statistics import mean, stdev

import pytest
from compared_runs import make_compared
from reported_runs import LENGTHS, make_imported, read

from trainer.report.groups import figure, group_name, rows_of


def test_seeds_of_one_experiment_are_one_row_and_others_are_not(tmp_path: Path) -> None:
    ppls = [24.0, 23.0, 25.0]
    runs = [
        make_compared(tmp_path / f"base-seed{i}", seed=i, ppl=ppl) for i, ppl in enumerate(ppls)
    ]
    runs.append(make_compared(tmp_path / "hot", optim={"lr": 1e-3}, ppl=30.0))
    runs.append(make_imported(tmp_path / "old"))
    rows = rows_of(read([*runs, tmp_path / "none"]))
    tests = [row for row in rows if row.of.startswith("test")]
    assert [(row.name, row.source is None) for row in tests] == [
        ("base", True),
        ("wt103-base", False),
        ("hot", True),
        ("old", True),
    ]
    ppl = tests[0].figures["ppl"]
    assert ppl.mean == pytest.approx(mean(ppls))
    assert ppl.deviation == pytest.approx(stdev(ppls))
    assert (ppl.n, tests[2].figures["ppl"].n) == (3, 1)
    assert tests[1].figures["ppl"].mean == 24.0


def test_results_of_other_measures_are_rows_of_their_own(tmp_path: Path) -> None:
    one = make_compared(tmp_path / "a1", seed=1, ppl=24.0)
    other = make_compared(
        tmp_path / "a2", seed=2, ppl=20.0, result={"settings": LENGTHS | {"mem_len": 0}}
    )
    rows = [row for row in rows_of(read([one, other])) if row.of.startswith("test of")]
    assert [(row.figures["ppl"].n, "mem_len 0" in row.of) for row in rows] == [
        (1, True),
        (1, False),
    ]


def test_another_network_has_no_published_result(tmp_path: Path) -> None:
    run = make_compared(tmp_path / "a")
    config = run / "config.json"
    config.write_text(config.read_text().replace('"n_layer": 16', '"n_layer": 2'))
    assert all(row.source is None for row in rows_of(read([run])))


def test_a_single_run_has_no_deviation() -> None:
    assert figure([2.0]).deviation is None
    assert (figure([2.0, 4.0]).mean, figure([2.0, 2.0]).deviation) == (3.0, 0.0)


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["wt-seed1", "wt-seed2"], "wt"),
        (["a_s10", "a_s11", "a_s2"], "a"),
        (["x", "y"], "x"),
        (["one"], "one"),
        (["run", "run-2"], "run"),
    ],
)
def test_a_group_is_called_by_what_its_names_share(names: list[str], name: str) -> None:
    assert group_name(names) == name
