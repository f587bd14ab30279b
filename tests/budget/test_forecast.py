"""A plan says the same in words, as JSON and of a training without a corpus, and fits together."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import random_documents, streams_of, write_corpus

from trainer.commands.cli import train_main
from trainer.commands.command_line import parse_command
from trainer.config.deepspeed.file import packaged_names
from trainer.config.recipe import load_recipe
from trainer.errors import InputError
from trainer.model.matrices import N_QUINTICS

NVIDIA = ["wt103-nvidia-base", "--gpus", "8", "--gpu-memory", "80"]


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    parse_command(["plan", *argv, "--json"]).run()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def row(found: dict[str, Any], file: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["file"] == file)


def test_a_plan_has_a_row_for_every_file_that_the_recipe_can_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = planned(capsys, *NVIDIA)
    assert found["parameters"] == 191_950_298
    assert found["tokens_per_step"] == 256 * 192
    files = [row["file"] for row in found["rows"]]
    assert files == [name for name in packaged_names() if not name.endswith("offload")]  # for Lamb
    parse_command(["plan", *NVIDIA]).run()
    said = capsys.readouterr().out
    assert all(f"| {name} " in said for name in files)
    assert "191,950,298 parameters" in said


def test_more_ranks_hold_less_each_and_higher_stages_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few, many = (planned(capsys, "wt103-nvidia-base", "--gpus", n) for n in ("2", "16"))
    for stage in (1, 2, 3):
        name = f"zero{stage}_bf16"
        assert row(many, name)["held"]["sum"] < row(few, name)["held"]["sum"]
        assert row(many, name)["at_once"] < row(few, name)["at_once"]
    sums = [row(many, f"zero{stage}_fp32")["held"]["sum"] for stage in range(4)]
    assert sums == sorted(sums, reverse=True)
    hours = [row(found, "zero1_bf16")["device_hours"] for found in (few, many)]
    assert hours[0] < hours[1]  # what is sent does not shrink with the work of a rank


def test_the_largest_micro_batch_is_the_largest_divisor_that_fits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit = ["--gpu-memory", "10", "--deepspeed-config", "zero1_bf16"]
    (whole,) = planned(capsys, "wt103-nvidia-base", "--gpus", "2", *limit)["rows"]
    assert whole["micro"] == 128
    assert not whole["fits"]
    micro = whole["largest_micro"]
    for size, fits in ((micro, True), (2 * micro, False)):
        flag = ["--train.train-micro-batch-size-per-gpu", str(size)]
        (one,) = planned(capsys, "wt103-nvidia-base", "--gpus", "2", *limit, *flag)["rows"]
        assert one["fits"] is fits
    none = ["--gpu-memory", "0.1", "--deepspeed-config", "zero1_bf16"]
    assert planned(capsys, "wt103-nvidia-base", *none)["rows"][0]["largest_micro"] is None


@pytest.mark.parametrize("bptt_segments", [1, 3])
def test_steps_of_an_epoch_are_those_of_the_streams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bptt_segments: int
) -> None:
    several = ["--train.bptt-segments", str(bptt_segments)]
    documents = random_documents(9000, vocabulary_size=300)
    corpus = write_corpus(tmp_path / "corpus", vocabulary_size=300, train=documents)
    train = load_recipe("quickstart").train
    streams = streams_of(
        split=corpus.splits["train"],
        train_batch_size=train.train_batch_size,
        tgt_len=train.tgt_len,
        bptt_segments=bptt_segments,
        slots=1,
        rank=0,
        world_size=1,
    )
    by_corpus = planned(capsys, "quickstart", "--data", str(tmp_path / "corpus"), *several)
    by_hand = planned(capsys, "quickstart", "--vocabulary", "300", "--tokens", "9e3", *several)
    for found in (by_corpus, by_hand):
        assert found["steps_per_epoch"] == streams.steps_per_epoch
        assert found["tokens_per_step"] == streams.n_tokens(0)
        assert found["epochs"] == pytest.approx(streams.epochs(train.max_steps))
    assert by_corpus["parameters"] == by_hand["parameters"]
    assert planned(capsys, "quickstart")["parameters"] == 1_508_416


def test_time_is_operations_and_bytes_at_the_rates_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = ["--deepspeed-config", "zero0_fp32"]
    rates = ["--tflops", "100", "--gb-per-s", "10"]
    found = planned(capsys, "enwik8-base", "--gpus", "2", *file, *rates)
    (one,) = found["rows"]
    flops = found["flops_per_token"] * found["tokens_per_step"] / 2
    assert one["step_s"] == pytest.approx(flops / 100e12 + one["sent"]["sum"] / 10e9)
    assert one["device_hours"] == pytest.approx(one["step_s"] * 400_000 * 2 / 3600)
    assert one["sent"]["sum"] == 4 * found["parameters"]  # half there, half back, fp32


def test_muon_s_matrices_are_sent_in_fp32_and_made_orthogonal_and_offload_is_not_planned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    muon = ["enwik8-base", "--gpus", "2", "--optim.type", "Muon"]
    found = planned(capsys, *muon, "--tflops", "100", "--gb-per-s", "10")
    rows = {row["file"]: row for row in found["rows"]}
    model = load_recipe("enwik8-base").model
    d, x = model.d_model, model.n_head * model.d_head
    n = model.n_layer * (5 * d * x + 2 * d * model.d_inner)
    assert list(rows) == [name for name in packaged_names() if not name.endswith("offload")]
    short, long = d, model.d_inner
    assert d == x
    of_layer = 5 * d**3 * 3 + 2 * short**2 * (2 * long + short)
    orthogonal = model.n_layer * N_QUINTICS * 2 * of_layer
    for row in rows.values():
        assert row["sent"]["matrices"] == 4 * n  # half there, half back
        computed = row["flops_per_token"] * found["tokens_per_step"] / 2
        computed += orthogonal / (1 if row["stage"] == 3 else 2)
        sent = row["sent"].pop("sum")
        assert row["step_s"] == pytest.approx(computed / 100e12 + sent / 10e9)
        assert sent == sum(row["sent"].values())


def test_a_dry_run_without_a_corpus_is_a_plan_of_its_ranks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert train_main(["enwik8-base", "--dry-run", "--device", "cpu"], environ) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == planned(capsys, "enwik8-base", "--gpus", "2", "--device", "cpu")
    assert train_main(["enwik8-base", "--dry-run"], environ | {"RANK": "1"}) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["wt103-base", "--gpus", "8"], "does not split over 8 ranks"),
        (["quickstart", "--gpus", "0"], "--gpus 0: give more than 0"),
        (["quickstart", "--tokens", "1"], "give two or more"),
        (["quickstart", "--vocabulary", "-4"], "give two or more"),
        (["wt103-base", "--vocabulary", "300"], "do not fit a vocabulary of 300"),
        (["quickstart", "--deepspeed-config", "nowhere"], "nowhere"),
        (["quickstart", "--data", "nowhere"], "nowhere"),
        (["quickstart", "--data", "x", "--tokens", "9"], "give one of them"),
        (["quickstart", "--gpu-memory", "nan"], "give more than 0"),
        (["quickstart", "--tokens", "inf"], "--tokens: invalid"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_command(["plan", *words]).run()


def test_a_recipe_of_ones_own_needs_a_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.json"
    recipe.write_text(load_recipe("quickstart").model_dump_json())
    with pytest.raises(InputError, match="give --vocabulary"):
        parse_command(["plan", str(recipe)]).run()
    assert planned(capsys, str(recipe), "--vocabulary", "4096")["parameters"] == 1_508_416
