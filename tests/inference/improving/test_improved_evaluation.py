"""`txl eval --cache`, `--dynamic`: tuned on valid, scored once, filed apart, changing nothing."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import lone_world
from evaluated_runs import ranks
from saved_checkpoints import contents
from training import write_text
from txl_command import said_in

import trainer
from trainer.data.corpus import Split
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import Exit, InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.report.compare.evaluations import compare
from trainer.report.sentence import sentence
from trainer.report.summary import ReadRun, read_run
from trainer.track.run_files.results import EvalResult, read_results

CACHE = {"cache": 30, "cache_weight": 0.2, "cache_flatness": 0.1}
DYNAMIC = {"dynamic": "rms", "dynamic_rate": 1e-5, "dynamic_decay": 0.01}
SGD = {"dynamic": "sgd", "dynamic_rate": 0.01, "dynamic_decay": 0.0}


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of valid and test in the words of the run's."""
    folder = tmp_path_factory.mktemp("improving") / "corpus"
    texts = folder.with_name("texts")
    texts.mkdir()
    valid = (write_text(texts / "valid.txt", "the brook", n_lines=14),)
    test = (write_text(texts / "test.txt", "the oak", n_lines=17),)
    prepare(PrepareOptions(out=folder, valid=valid, test=test, vocab=corpus))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluated(run: Path, data: Path, **options: Any) -> list[EvalResult]:
    return evaluate_run(EvalOptions(run_dir=run, data=data, **options), lone_world())


def seen(run: Path) -> ReadRun:
    return read_run(run, now=0.0)


@pytest.mark.parametrize("asked", [{"cache": 30}, {"dynamic": "sgd"}, {"dynamic": "rms"}])
def test_test_is_read_once_after_all_tuning_on_valid(
    run: Path, data: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[str, int]] = []
    take = Split.take

    def noted(split: Split, places: Any) -> Any:
        taken.append((split.name, int(np.max(places))))
        return take(split, places)

    monkeypatch.setattr(Split, "take", noted)
    (result,) = evaluated(run, data, **asked)
    names = [name for name, _ in taken]
    first = names.index("test")
    assert {*names[:first]} == {"valid"}
    assert {*names[first:]} == {"test"}
    tested = names[first:].count("test")
    taken.clear()
    method = result.method
    assert method is not None
    part = method.parts[0]
    assert part.tuned_on is not None
    given = part.model_dump(exclude={"tuned_on", "rule", "states"})
    prefix = "cache" if method.cache else "dynamic"
    (again,) = evaluated(run, data, **asked, **{f"{prefix}_{k}": v for k, v in given.items()})
    assert again.loss == pytest.approx(result.loss, rel=1e-9)
    assert [name for name, _ in taken] == ["test"] * tested
    assert len(read_results(run).results) == 2


def test_nothing_of_the_run_is_changed_and_plain_nats_are_the_same_to_the_last_bit(
    run: Path, data: Path
) -> None:
    def plain() -> tuple[float | None, Any]:
        (result,) = evaluated(run, data, per_token=True, precision="fp32")
        (tokens,) = [p for p in (run / "evals").glob("*.npy") if "cache" not in p.name]
        return result.loss, np.load(tokens)["nats"]

    loss, nats = plain()
    before = contents(run / "checkpoints")
    both = evaluated(run, data, per_token=True, precision="fp32", **CACHE, **DYNAMIC)
    assert contents(run / "checkpoints") == before
    assert abs((both[0].loss or 0.0) - (loss or 0.0)) > 1e-6
    for path in (run / "evals").glob("*cache*"):
        path.unlink()
    again, others = plain()
    assert again == loss
    assert np.array_equal(nats, others)


@pytest.mark.parametrize("asked", [CACHE, SGD, CACHE | DYNAMIC])
def test_a_method_is_filed_as_its_own_and_not_compared_with_plain_reading(
    run: Path, data: Path, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (plain,) = evaluated(run, data, precision="fp32")
    (improved,) = evaluated(run, data, precision="fp32", **asked)
    assert str(improved.method) in capsys.readouterr().out
    filed = {path.name: json.loads(path.read_text()) for path in (run / "evals").glob("*.json")}
    assert len(filed) == 2
    assert {value["version"] for value in filed.values()} == {2, 3}
    assert plain.key != improved.key
    assert plain.series != improved.series
    assert str(plain) != str(improved)
    only_plain, only_improved = (shutil.copytree(run, run.with_name(name)) for name in "ab")
    for folder, version in ((only_plain, 2), (only_improved, 3)):
        for path in (folder / "evals").glob("*.json"):
            if json.loads(path.read_text())["version"] != version:
                path.unlink()
    one, other = seen(only_plain), seen(only_improved)
    assert compare(one, other).differences == []
    assert any("read plain, not" in reason for reason in compare(one, other).reasons)
    assert len(compare(other, seen(run)).differences) == 1
    assert sentence(one, environment={}) == sentence(other, environment={}).replace("b ", "a ", 1)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_rows_do_not_change_what_a_cache_gives(run: Path, data: Path, batch_size: int) -> None:
    (one,) = evaluated(run, data, batch_size=2, **CACHE)
    (other,) = evaluated(run, data, batch_size=batch_size, **CACHE)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)


def test_ranks_do_not_change_what_a_cache_gives_or_which_is_tuned(run: Path, data: Path) -> None:
    (tuned,) = evaluated(run, data, cache=30)
    ranks(2, run, "--data", data, "--split", "test", "--cache", 30)
    (other,) = [result for result in read_results(run).results if result.world_size == 2]
    assert other.method == tuned.method
    assert other.loss == pytest.approx(tuned.loss, rel=1e-6)


def test_a_call_in_python_tunes_as_the_command_does(run: Path, data: Path) -> None:
    (asked,) = evaluated(run, data, cache=30)
    (called,) = trainer.evaluate(run, data=data, cache=30, device="cpu")
    assert (called.method, called.loss) == (asked.method, asked.loss)


def test_a_part_of_valid_may_do_for_tuning(run: Path, data: Path) -> None:
    (whole,) = evaluated(run, data, cache=30)
    (part,) = evaluated(run, data, cache=30, tune_tokens=40)
    assert part.method is not None
    assert part.method.cache is not None
    assert (part.method.cache.tuned_on or "").endswith(":40")
    assert part.key != whole.key


REFUSED: list[tuple[dict[str, Any], str]] = [
    (CACHE | {"warm": "near"}, "use --warm exact"),
    (CACHE | {"as_fairseq": True}, "--as-fairseq and --cache: give one"),
    (SGD | {"by_position": True}, "--by-position and --dynamic: give one"),
    ({"cache": 5, "split": "valid"}, "tuned on valid, which cannot be scored then"),
    (SGD | {"batch_size": 2}, "--dynamic reads one row: leave --batch-size 2 out"),
    (SGD | {"precision": "bf16"}, "--dynamic learns in fp32"),
    (SGD | {"tune_tokens": 40}, "--tune-tokens 40 is for settings"),
    ({"tune_tokens": 40}, "--tune-tokens 40 is for settings"),
    ({"cache": 5, "tune_tokens": 1}, "--tune-tokens 1 is for settings"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_does_not_go_together_is_refused(
    run: Path, data: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluated(run, data, **options)


def test_dynamic_evaluation_is_for_one_rank(run: Path, data: Path) -> None:
    options = EvalOptions(run_dir=run, data=data, **SGD)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reads one row, and there are 2 ranks"):
        evaluate_run(options, lone_world(world_size=2))


def flags(asked: dict[str, Any]) -> Sequence[object]:
    return [
        word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", value)
    ]


def test_the_command_tunes_scores_and_ends_in_one_line_where_weights_are_not_finite(
    run: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ["eval", run, "--data", data, "--device", "cpu"]
    done = said_in("utf-8", monkeypatch, *how, "--cache", 20, *flags(SGD))
    assert done.code == Exit.DONE, done.err
    assert "cache 20 (weight" in done.out
    bad = {"dynamic": "sgd", "dynamic_rate": 1e30, "dynamic_decay": 0}
    ended = said_in("utf-8", monkeypatch, *how, *flags(bad))
    assert ended.code == Exit.NONFINITE
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert "lower --dynamic-rate" in line
    assert "Traceback" not in ended.err
    assert len(read_results(run).results) == 1
