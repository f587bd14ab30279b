"""A plan refuses, before anything is begun, what the run would only find out later."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_documents, streams_of, tiny_experiment, write_corpus

from trainer.budget.machine import There
from trainer.budget.sizes import How
from trainer.config.command_line.arguments import parse_train
from trainer.config.deepspeed.file import default_names, load_ds_config, resolve
from trainer.data.corpus import Corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError
from trainer.launchers import complete_environ
from trainer.model.choice import BackendName
from trainer.training.opening import plan
from trainer.training.opening.plan import (
    Plan,
    check_kernels,
    check_segments,
    check_splits,
    make_plan,
)

HOW = How(
    backend="triton",
    precision="bf16",
    stage=3,
    world_size=2,
    micro=1,
    slots=1,
    offload=False,
    bucket=1,
    on_gpu=True,
    fused_adam=True,
)


def test_a_sample_that_cannot_begin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 999)
    prepare(
        PrepareOptions(
            out=tmp_path / "corpus", train=(tmp_path / "text.txt",), tokenizer="characters"
        )
    )
    argv = ["quickstart", "--data", str(tmp_path / "corpus"), "--sample.prompt", "the zoo"]
    argv += ["--valid.interval-steps", "0", "--device", "cpu"]
    make_plan(parse_train(argv), complete_environ({}))
    with pytest.raises(InputError, match=r"--sample\.prompt: character 'z' .*: leave it out"):
        make_plan(parse_train([*argv, "--sample.interval-steps", "2"]), complete_environ({}))


def corpus_of(folder: Path, **n_tokens: int) -> Corpus:
    """Return a corpus whose splits have so many tokens."""
    splits = {name: random_documents(n, vocabulary_size=9) for name, n in n_tokens.items()}
    return write_corpus(folder / "corpus", vocabulary_size=9, **splits)


@pytest.mark.parametrize(
    ("bf16", "total", "asked", "chosen"),
    [
        (True, 1 << 40, [], (0, "bf16_autocast")),
        (True, 1 << 20, [], (1, "bf16")),
        (False, 1 << 40, [], (0, "fp16_autocast")),
        (False, 1 << 20, [], (1, "fp16")),
        (True, 1 << 20, ["--deepspeed-config", "zero0_fp32"], (0, "fp32")),
    ],
)
def test_a_gpu_s_default_is_the_first_that_fits_its_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bf16: bool,
    total: int,
    asked: list[str],
    chosen: tuple[int, str],
) -> None:
    gpus = default_names(accelerator="cuda", bf16=bf16)
    monkeypatch.setattr(plan, "default_names", lambda **_: gpus)
    monkeypatch.setattr(plan, "device_there", lambda _: There(total, total, "a GPU"))
    monkeypatch.setattr(plan, "check_device", lambda *_: None)
    corpus = corpus_of(tmp_path, train=5000)
    argv = ["quickstart", "--data", str(corpus.path), "--valid.interval-steps", "0", *asked]
    made = make_plan(parse_train([*argv, "--device", "cpu"]), complete_environ({}))
    assert (made.resolved.zero_stage, made.resolved.precision) == chosen
    assert made.budget is not None
    assert made.budget.how.stage == chosen[0]


@pytest.mark.parametrize(
    ("n_tokens", "valid", "told"),
    [
        ({"valid": 9}, {}, "has no train split"),
        ({"train": 9}, {"patience": 2}, "--valid.patience needs a valid split, and .*/corpus has"),
        ({"train": 9, "test": 9}, {"patience": 2}, "or leave --valid.patience out"),
        ({"train": 9, "valid": 1}, {}, "split valid has one token and nothing to predict"),
    ],
)
def test_a_corpus_without_the_text_to_judge_by_is_refused(
    tmp_path: Path, n_tokens: dict[str, int], valid: dict[str, Any], told: str
) -> None:
    experiment = tiny_experiment(valid=valid)
    with pytest.raises(InputError, match=told):
        check_splits(experiment, corpus_of(tmp_path, **n_tokens))


@pytest.mark.parametrize(
    ("n_tokens", "valid"),
    [
        ({"train": 9, "valid": 2}, {"patience": 2}),
        ({"train": 9, "valid": 1}, {"interval_steps": 0}),  # which nobody reads
        ({"train": 9}, {}),
    ],
)
def test_a_corpus_that_has_it_is_taken(
    tmp_path: Path, n_tokens: dict[str, int], valid: dict[str, Any]
) -> None:
    check_splits(tiny_experiment(valid=valid), corpus_of(tmp_path, **n_tokens))


def test_a_device_s_peak_is_the_given_one_or_its_gpu_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path, train=20_000)
    argv = ["quickstart", "--data", str(corpus.path), "--valid.interval-steps", "0"]
    argv += ["--device", "cpu", "--model.cutoffs", "5"]

    def made(*flags: str) -> Plan:
        return make_plan(parse_train([*argv, *flags]), complete_environ({}))

    assert made().peak_tokens_per_s is None
    given = made("--tracking.peak-tflops", "2")
    assert given.budget is not None
    assert given.peak_tokens_per_s == pytest.approx(2e12 / given.budget.flops_per_token)
    changing = ["--train.tgt-len-schedule", f"[[0, 1], [9, {given.streams.lengths(0).tgt_len}]]"]
    assert made("--tracking.peak-tflops", "2", *changing).peak_tokens_per_s is None
    on_gpu = replace(
        made("--deepspeed-config", "zero0_bf16_autocast"),
        world=replace(given.world, device=torch.device("cuda", 0)),
    )
    for gpu, tflops in (("NVIDIA H200", 989.4), ("NVIDIA Z1", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, gpu=gpu: gpu)
        expected = tflops and tflops * 1e12 / given.budget.flops_per_token
        assert on_gpu.peak_tokens_per_s == pytest.approx(expected)
    assert replace(given, budget=None).peak_tokens_per_s is None


def test_a_segment_longer_than_a_stream_is_refused_with_what_fits(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, train=1001)  # 1,000 pairs
    train = {"train_batch_size": 40, "tgt_len": 26}
    with pytest.raises(InputError, match=r"1,001 tokens, 25 for each of .* 40") as refused:
        check_segments(tiny_experiment(train=train), corpus)
    for flag, field in (("tgt-len", "tgt_len"), ("train-batch-size", "train_batch_size")):
        found = re.search(rf"--train.{flag} up to (\d+)", str(refused.value))
        assert found
        most = int(found[1])
        check_segments(tiny_experiment(train=train | {field: most}), corpus)
        with pytest.raises(InputError):
            check_segments(tiny_experiment(train=train | {field: most + 1}), corpus)


@pytest.mark.parametrize(
    ("stage", "backend", "bptt_segments"), [(3, "triton", 1), (3, "plain", 2), (2, "triton", 2)]
)
def test_kernels_read_a_layer_s_weights_once_a_step_at_stage_3(
    stage: int, backend: BackendName, bptt_segments: int
) -> None:
    experiment = tiny_experiment(train={"bptt_segments": bptt_segments})
    check_kernels(experiment, replace(HOW, stage=stage, backend=backend))
    several = tiny_experiment(train={"bptt_segments": 2})
    with pytest.raises(InputError, match=r"bptt_segments 2 .* --model.kernels plain, or a"):
        check_kernels(several, replace(HOW, stage=3, backend="triton"))


def test_a_batch_of_a_billion_streams_is_answered_at_once(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, train=1001)
    experiment = tiny_experiment(train={"train_batch_size": 10**9 + 7})
    with pytest.raises(
        InputError, match=r"use 1 or 1000000007 ranks, or .* 1000000006 or 10000000"
    ):
        resolve(load_ds_config("zero1_fp32"), experiment, world_size=2, where="zero1_fp32")
    with pytest.raises(InputError, match="too few for 1,000,000,007 streams"):
        streams_of(
            split=corpus.splits["train"],
            train_batch_size=10**9 + 7,
            tgt_len=1,
            slots=1,
            rank=0,
            world_size=1,
        )
