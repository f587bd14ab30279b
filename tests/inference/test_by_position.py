"""The loss by position is the mean of a naive reading of windows, however rows are divided."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import lone_world, random_documents, write_split
from evaluated_runs import evaluated, ranks
from txl_command import said_in

from trainer.data.corpus import Split
from trainer.data.rows import one_row
from trainer.errors import Exit, InputError
from trainer.inference.by_position import loss_by_position, windows_of
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate
from trainer.inference.loading import open_corpus_of, open_trained
from trainer.inference.settings import scoring_of
from trainer.inference.trained import TrainedModel
from trainer.track.run_files.by_position import ByPosition
from trainer.track.run_files.results import read_results


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return open_trained(trained, which="last", precision=None, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def split(trained: Path) -> Split:
    return open_corpus_of(trained).splits["valid"]


def naive(model: TrainedModel, split: Split, n_tokens: int) -> dict[int, list[float]]:
    """Return the nats at each position, of windows read one after the other."""
    scoring, nats = model.experiment.eval, dict[int, list[float]]()
    tokens = torch.tensor(split.tokens[:].astype("int64"))
    for begin in range(0, len(tokens), n_tokens):
        window = tokens[begin : begin + n_tokens]
        memory = model.reading_memory(1, scoring.mem_len)
        for at in range(0, len(window) - 1, scoring.tgt_len):
            end = min(at + scoring.tgt_len, len(window) - 1)
            segment = one_row(
                window[at:end].numpy(),
                window[at + 1 : end + 1].numpy(),
                cutoffs=model.experiment.model.cutoffs,
            )
            with torch.no_grad():
                output = model(
                    segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
                )
            memory = output.memory
            for i, one in enumerate(output.nll_BT[0].tolist()):
                nats.setdefault(at + i + 1, []).append(one)
    return nats


def found(model: TrainedModel, split: Split, n_tokens: int | None, **lengths: Any) -> ByPosition:
    return loss_by_position(
        model,
        split,
        scoring=scoring_of(model.experiment, **lengths),
        n_tokens=n_tokens,
        world=lone_world(),
    )


@pytest.mark.parametrize("n_tokens", [40, 97])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_bins_hold_the_means_of_windows_read_one_by_one(
    model: TrainedModel, split: Split, n_tokens: int, batch_size: int
) -> None:
    nats = naive(model, split, n_tokens)
    curve = found(model, split, n_tokens, batch_size=batch_size)
    assert curve.n_windows == -(-split.n_tokens // n_tokens)
    expected = 1
    for part in curve.bins:
        assert part.low == expected
        assert part.high == min(2 * part.low - 1, n_tokens - 1)
        inside = [x for at in range(part.low, part.high + 1) for x in nats[at]]
        assert part.n_tokens == len(inside)
        assert part.loss == pytest.approx(sum(inside) / len(inside), rel=1e-5)
        expected = part.high + 1
    assert expected == n_tokens


def test_without_a_number_the_text_is_one_window_with_the_loss_of_txl_eval(
    model: TrainedModel, split: Split, run: Path
) -> None:
    result = evaluated(run, checkpoint="last", by_position=True, batch_size=3)
    curve = result["by_position"]
    assert (curve["window_tokens"], curve["n_windows"]) == (None, 1)
    total = sum(part["loss"] * part["n_tokens"] for part in curve["bins"])
    assert sum(part["n_tokens"] for part in curve["bins"]) == result["n_tokens"]
    assert total / result["n_tokens"] == pytest.approx(result["loss"], rel=1e-6)


def test_ranks_change_nothing(run: Path) -> None:
    alone = evaluated(run, by_position_tokens=30)["by_position"]
    told = ranks(2, run, "--by-position-tokens", 30, "--batch-size", 2)
    assert told.count("windows of 30 tokens") == 1
    (both,) = (r.by_position for r in read_results(run).results if r.world_size == 2)
    assert both is not None
    assert [part.n_tokens for part in both.bins] == [part["n_tokens"] for part in alone["bins"]]
    losses = [part["loss"] for part in alone["bins"]]
    assert [part.loss for part in both.bins] == pytest.approx(losses, rel=1e-5)


def test_windows_lie_inside_documents_where_memory_ends_at_them(tmp_path: Path) -> None:
    documents = random_documents(50, vocabulary_size=9, n_documents=4, seed=3)
    split = write_split(tmp_path / "corpus", documents, vocabulary_size=9)
    starts = split.document_starts.tolist()
    whole = windows_of(split, n_tokens=None, inside_documents=True)
    assert whole.bounds.tolist() == [*starts, 50]
    windows = windows_of(split, n_tokens=7, inside_documents=True).bounds.tolist()
    assert set(starts) < set(windows)
    assert all(0 < b - a <= 7 for a, b in pairwise(windows))
    everywhere = windows_of(split, n_tokens=7, inside_documents=False).bounds.tolist()
    assert everywhere == [0, 7, 14, 21, 28, 35, 42, 49, 50]


def test_lengths_of_memory_stand_side_by_side_and_stay_filed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["eval", run, "--split", "valid", "--device", "cpu", "--mem-len", "0,20"]
    told = said_in("utf-8", monkeypatch, *argv, "--by-position-tokens", "40").out
    lines = [line.split() for line in told.splitlines()]
    at = next(i for i, words in enumerate(lines) if words[:3] == ["tokens", "read", "before"])
    assert [words[0] for words in lines[at + 1 : at + 7]] == [
        "1",
        "2–3",
        "4–7",
        "8–15",
        "16–31",
        "32–39",
    ]
    filed = {r.settings.mem_len: r.by_position for r in read_results(run).results}
    assert None not in filed.values()
    for mem_len, column in ((0, 2), (20, 3)):
        curve = filed[mem_len]
        assert curve is not None
        assert [f"{part.loss:.4f}" for part in curve.bins] == [
            words[column] for words in lines[at + 1 : at + 7]
        ]
    evaluate(EvalOptions(run_dir=run, split="valid", mem_len="20"), lone_world())
    again = {r.settings.mem_len: r.by_position for r in read_results(run).results}
    assert again == filed


def test_the_page_and_a_picture_show_the_curves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, page = tmp_path / "curves.svg", tmp_path / "page.html"
    refused = said_in("utf-8", monkeypatch, "report", run, "--plot-positions", picture)
    assert refused.code == Exit.BAD_INPUT
    assert "txl eval RUN --by-position" in refused.err
    evaluated(run, by_position_tokens=40)
    argv = ("report", run, "--plot-positions", picture, "--html", page)
    assert said_in("utf-8", monkeypatch, *argv).code == Exit.DONE
    assert "tokens read since memory was empty" in page.read_text()
    assert "Loss by position" in page.read_text()
    assert picture.read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by_position_tokens": 1}, "give 2 up"),
        ({"by_position": True, "as_fairseq": True}, "give one of them"),
    ],
)
def test_what_means_nothing_is_refused(run: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        evaluated(run, **options)
