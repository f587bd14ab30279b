"""Arms are compared at their best rates, and what a loss costs comes from complete runs alone."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from training import ROOT

from trainer.data.corpus import open_corpus

BENCHMARKS = ROOT / "tests" / "benchmarks"


@pytest.fixture
def learning(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import learning

    return learning


def test_without_books_the_corpus_is_of_other_sources(
    learning: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from measured import trained

    (tmp_path / "text.py").write_text("import this  # and that\n" * 400)
    flags = ["--split", "90,5,5", "--train", str(tmp_path / "text.py")]
    monkeypatch.setattr(trained, "CLASSICS", tmp_path / "nothing")
    monkeypatch.setattr(trained, "sources", lambda _: flags)
    corpus = learning.books_in(tmp_path / "out", vocab_size=300)
    assert {"train", "valid"} <= open_corpus(corpus).splits.keys()


@pytest.mark.parametrize("begin", [-3, 0, 2])
@pytest.mark.parametrize("least", [-4, 0, 3])
def test_a_walk_ends_between_two_places_that_are_worse(
    learning: Any, begin: int, least: int
) -> None:
    from arms.tuning import walk

    tried: list[int] = []

    def losses_of(places: Any) -> dict[int, float]:
        tried.extend(places)
        return {place: abs(place - least) if place < 6 else math.nan for place in places}

    assert walk(begin, losses_of, most=8) == least
    assert {least - 1, least, least + 1} <= {*tried}
    assert len(tried) == len({*tried})


def test_a_walk_gives_up_where_the_loss_goes_on_to_fall(learning: Any) -> None:
    from arms.tuning import walk

    with pytest.raises(SystemExit, match="still falls"):
        walk(0, lambda places: {place: -float(place) for place in places}, most=3)


def arms_of(learning: Any, corpus: Path, *told: str) -> list[Any]:
    return [learning.Arm.read(words, size="0.5M", corpus=corpus) for words in told]


def learnt(learning: Any, arm: Any, *, worse: float, n_tuning: int = 2) -> Any:
    """Return an arm whose loss falls by one nat with each doubling of the tokens."""
    from arms.tuned import Plan, tune

    def run(trials: Sequence[Any]) -> Iterator[Any]:
        for trial in trials:
            far = abs(math.log(trial.rate / 0.0075))
            loss = worse + far + trial.seed / 100 - math.log2(trial.n_tokens)
            yield learning.Run(trial, loss, trial.n_tokens / 100)

    plan = Plan(8192, (0.25, 0.5), (1, 2), n_tuning, 1.6)
    return tune(arm, plan, lambda trials: list(run(trials)))


def test_an_arm_is_tuned_and_its_neighbours_are_kept(learning: Any, corpus: Path) -> None:
    (arm,) = arms_of(learning, corpus, "quickstart")
    tuned = learnt(learning, arm, worse=20.0)
    assert tuned.rate == pytest.approx(0.00768)
    rates = list(tuned.rates)
    assert 0 < rates.index(tuned.rate) < len(rates) - 1
    assert [point.n_tokens for point in tuned.points] == [2048, 4096, 8192]
    assert tuned.best == tuned.rates[tuned.rate]


@pytest.mark.parametrize("n_tuning", [1, 2])
def test_so_many_seeds_choose_the_rate_as_are_asked_to(
    learning: Any, corpus: Path, n_tuning: int
) -> None:
    (arm,) = arms_of(learning, corpus, "quickstart")
    tuned = learnt(learning, arm, worse=20.0, n_tuning=n_tuning)
    n_runs = {rate: len(mean.losses) for rate, mean in tuned.rates.items()}
    assert n_runs.pop(tuned.rate) == 2
    assert set(n_runs.values()) == {n_tuning}
    assert [len(point.mean.losses) for point in tuned.points] == [2, 2, 2]


@pytest.mark.parametrize(("worse", "share"), [(19.5, 2**-0.5), (20.0, 1.0), (19.0, 0.5)])
def test_what_a_loss_costs_lies_between_complete_runs(
    learning: Any, corpus: Path, worse: float, share: float
) -> None:
    first, other = arms_of(learning, corpus, "a=quickstart", "b=quickstart --model.norm post")
    measure = learnt(learning, first, worse=20.0)
    spent = learnt(learning, other, worse=worse).spent_to(measure.best.loss)
    assert spent.n_tokens == pytest.approx(8192 * share)
    assert spent.cpu_s == pytest.approx(81.92 * share)


def test_no_loss_is_told_beyond_what_was_run(learning: Any, corpus: Path) -> None:
    (arm,) = arms_of(learning, corpus, "quickstart")
    tuned = learnt(learning, arm, worse=20.0)
    assert tuned.spent_to(tuned.best.loss - 0.1) is None
    assert tuned.spent_to(99.0).n_tokens == 2048  # of the shortest, no less


def test_the_table_tells_gain_rate_and_cost(learning: Any, corpus: Path, tmp_path: Path) -> None:
    arms = arms_of(learning, corpus, "a=quickstart", "b=quickstart --model.norm post")
    tuned = [learnt(learning, arm, worse=20.0 - i / 2) for i, arm in enumerate(arms)]
    _, _, first, second = learning.table(tuned).splitlines()
    assert "| `a` |" in first
    assert "| +0.000 | +0.000 to +0.000 | 82 | 8,192 (1.00) | 82 (1.00) |" in first
    assert "| `b` |" in second
    assert "| +0.500 | +0.500 to +0.500 | 82 | 5,793 (0.71) | 58 (0.71) |" in second
    learning.plot(tuned, tmp_path / "learning.svg")
    assert (tmp_path / "learning.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("told", "name", "flag"),
    [
        ("quickstart", "quickstart", None),
        ("post=quickstart --model.norm post", "post", "post"),
        ("quickstart --model.norm=post", "quickstart", "post"),
    ],
)
def test_an_arm_is_what_one_would_write(
    learning: Any, corpus: Path, told: str, name: str, flag: str | None
) -> None:
    (arm,) = arms_of(learning, corpus, told)
    assert arm.name == name
    assert arm.experiment.model.norm == (flag or "pre")
    assert arm.experiment.model.d_model == 96


@pytest.mark.parametrize("told", ["", "--model.norm post", "quickstart --model.nrm post"])
def test_an_arm_that_is_no_training_is_refused(learning: Any, corpus: Path, told: str) -> None:
    with pytest.raises(SystemExit):
        arms_of(learning, corpus, told)


def test_a_run_that_is_done_is_not_repeated_and_another_is_not_taken_for_it(
    learning: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from measured import trained as runs

    (arm,) = arms_of(learning, corpus, "quickstart --train.train-batch-size 2")
    trial = learning.Trial(0.003, 128, 1)
    run = arm.run(trial, tmp_path)
    assert math.isfinite(run.loss)
    monkeypatch.setattr(runs.subprocess, "Popen", lambda *_, **__: pytest.fail("ran again"))
    assert arm.run(trial, tmp_path) == run
    (result,) = tmp_path.rglob(runs.RESULT)
    words = json.loads(result.read_text())["words"]
    assert words[0] == "quickstart"
    (other,) = arms_of(learning, corpus, "quickstart --train.train-batch-size 2 --model.norm post")
    with pytest.raises(SystemExit, match="other words"):
        other.run(trial, tmp_path)


def test_a_run_that_diverged_has_an_endless_loss(
    learning: Any, corpus: Path, tmp_path: Path
) -> None:
    (arm,) = arms_of(learning, corpus, "quickstart --train.train-batch-size 2")
    assert math.isinf(arm.run(learning.Trial(1e30, 640, 1), tmp_path).loss)
