"""Who is held against whom; and a plain GPT as a peer: the same work, and a model that learns."""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peer import needs_peer
from training import ROOT, environment

BENCHMARKS = ROOT / "tests" / "benchmarks"
CPU_INFO = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC 9755
flags\t\t: fpu avx512f avx512_bf16

processor\t: 1
"""


@pytest.fixture(scope="module")
def here() -> Iterator[SimpleNamespace]:
    """Yield the modules that a comparison is made of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import compare
        from measured import dims, processes, variants
        from peers import gpt_worker

        yield SimpleNamespace(
            compare=compare, dims=dims, processes=processes, variants=variants, gpt=gpt_worker
        )


def met(here: SimpleNamespace, told: str, **how: object) -> list[tuple[str, str]]:
    """Return the names of ours and of the peer that a comparison meets."""
    peers = here.variants.peer_variants(told)
    found = here.variants.pairs(peers, **{"device": "cpu", "scores": False} | how)
    return [(ours.name, peer.name) for ours, peer in found]


def test_another_model_meets_ours_in_the_same_precision(here: SimpleNamespace) -> None:
    assert met(here, "gpt") == [
        ("ours, fp32", "gpt, fp32"),
        ("ours, fp32", "gpt, medium matmul"),
        ("ours, bf16 autocast", "gpt, bf16 autocast"),
    ]
    assert met(here, "gpt", scores=True) == met(here, "gpt")[:2], "evaluation is in fp32"
    assert met(here, "gpt-adaptive", device="cuda") == [
        ("ours, bf16", "gpt-adaptive, bf16 autocast")
    ]


def test_a_trainer_of_the_same_model_is_met_as_it_is_shipped(here: SimpleNamespace) -> None:
    assert met(here, "huggingface") == [
        ("ours, fp32", "huggingface, as shipped"),
        ("ours, fp32", "huggingface, medium matmul"),
        ("ours, bf16 autocast", "huggingface, as shipped"),
    ]
    assert met(here, "nvidia=there", only="bf16") == [("ours, bf16 autocast", "nvidia, as shipped")]
    assert met(here, "earlier=there") == [
        (name, f"earlier {name}") for name in ("ours, fp32", "ours, bf16 autocast")
    ]


@pytest.mark.parametrize("told", ["nanogpt", "gpt=there", "kimiyoung", "earlier", ""])
def test_a_peer_that_is_not_known_is_refused(here: SimpleNamespace, told: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="gpt-adaptive"):
        here.variants.peer_variants(told)


def test_a_processor_is_named_with_what_its_bf16_depends_on(
    here: SimpleNamespace, tmp_path: Path
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(CPU_INFO)
    named = here.processes.processor("cpu", cpu_info=info)
    assert named == "AMD EPYC 9755 (cpu family 26, model 2, avx512_bf16)"
    info.write_text(CPU_INFO.replace("avx512_bf16", "avx2"))
    assert "no bf16 instructions" in here.processes.processor("cpu", cpu_info=info)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ([5.0, 4.9], "do not begin near"),
        ([math.nan, 5.0], "do not begin near"),
        ([5.7, math.inf], "do not begin near"),
        ([5.7, 5.7], "do not fall"),
    ],
)
def test_a_model_that_does_not_learn_is_no_peer(
    here: SimpleNamespace, losses: list[float], why: str
) -> None:
    with pytest.raises(SystemExit, match=why):
        here.compare.learning(losses, guess=math.log(300), trains=True)
    assert here.compare.learning([5.7, 5.6], guess=math.log(300), trains=True) == [5.7, 5.6]
    assert here.compare.learning([5.7, 5.8], guess=math.log(300), trains=False) == [5.7, 5.8]


def test_a_guess_costs_what_the_words_of_a_softmax_are(here: SimpleNamespace) -> None:
    dims = replace(here.dims.CONFIGS["toy"], cutoffs=(100,))
    assert here.compare.guess(dims, "full") == math.log(300)
    (_, in_head), (_, in_tail) = here.dims.clusters(dims)
    logits = in_head * math.log(101) + in_tail * (math.log(101) + math.log(200))
    assert here.compare.guess(dims, "adaptive") == pytest.approx(logits)


@pytest.mark.parametrize("name", ["tiny", "small", "wt103-base", "wt103-base-60", "toy"])
def test_a_gpt_trains_as_many_tokens_each_once_with_our_longest_context(
    here: SimpleNamespace, name: str
) -> None:
    dims = here.dims.CONFIGS[name]
    n_tokens, context = dims.n_streams * dims.tgt_len, dims.tgt_len + dims.mem_len
    ids = torch.arange(3 * n_tokens + 1)
    read = [here.gpt.batch_of(dims, ids, step=step, scores=False) for step in range(3)]
    assert all(x.shape == y.shape == (n_tokens // context, context) for x, y in read)
    assert torch.equal(torch.cat([x.flatten() for x, _ in read]), ids[:-1])
    assert torch.equal(torch.cat([y.flatten() for _, y in read]), ids[1:])


def test_a_gpt_scores_each_token_once_behind_mem_len_others(here: SimpleNamespace) -> None:
    dims = here.dims.CONFIGS["eval-64/640"]
    ids = torch.arange(3 * 64 + 641)
    read = [here.gpt.batch_of(dims, ids, step=step, scores=True) for step in range(3)]
    assert all(x.shape == (1, 704) for x, _ in read)
    assert all(y[0, 0] == x[0, 0] + 641 for x, y in read)
    assert torch.equal(torch.cat([y.flatten() for _, y in read]), ids[641:])


def test_rows_that_are_not_whole_are_refused(here: SimpleNamespace) -> None:
    dims = replace(here.dims.CONFIGS["toy"], n_streams=3)
    with pytest.raises(SystemExit, match="18 tokens a step are no whole rows of 13"):
        here.gpt.batch_of(dims, torch.arange(99), step=0, scores=False)


@pytest.mark.parametrize("softmax", ["full", "adaptive"])
def test_a_token_of_a_gpt_sees_those_before_it_and_no_other(
    here: SimpleNamespace, softmax: str
) -> None:
    dims = here.dims.CONFIGS["toy"]
    torch.manual_seed(0)
    model = here.gpt.GPT(dims, dropout=0.0, softmax=softmax)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.dim() > 1 else 1)  # so that attention matters
    ids = torch.randint(dims.vocab_size, (2, 14))
    x_BT, y_BT = ids[:, :-1], ids[:, 1:]
    whole, first = model(x_BT, y_BT), model(x_BT[:, :6], y_BT[:, :6])
    later = model(x_BT, y_BT[:, 6:])
    assert (6 * first + 7 * later).item() == pytest.approx(13 * whole.item(), rel=1e-5)
    x_BT[:, 0] = (x_BT[:, 0] + 1) % dims.vocab_size
    assert model(x_BT, y_BT[:, 6:]).item() != later.item()


def test_without_clusters_the_adaptive_softmax_is_the_full_one(here: SimpleNamespace) -> None:
    dims = replace(here.dims.CONFIGS["toy"], cutoffs=())
    full, adaptive = (here.gpt.GPT(dims, dropout=0.0, softmax=s) for s in ("full", "adaptive"))
    weights = full.state_dict()
    weights["words.embedding.tables.0"] = weights["words.softmax.tables.0"] = weights.pop(
        "words.table"
    )
    weights["words.softmax.biases.0"] = torch.zeros(dims.vocab_size)
    adaptive.load_state_dict(weights)
    ids = torch.randint(dims.vocab_size, (2, 14))
    both = [model(ids[:, :-1], ids[:, 1:]) for model in (full, adaptive)]
    for loss in both:
        loss.backward()
    torch.testing.assert_close(*both)
    tables = full.words.table.grad, adaptive.words.embedding.tables[0].grad
    torch.testing.assert_close(*tables)


def compared(out: Path, *flags: str) -> tuple[str, dict[str, Any]]:
    """Return what a comparison of toys says, and writes."""
    command = [sys.executable, BENCHMARKS / "compare.py", "toy", "--out", out, *flags]
    done = subprocess.run(
        list(map(str, command)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return done.stdout, found


@pytest.mark.parametrize("ours", [pytest.param("fp32", marks=needs_peer())])
def test_what_is_measured_beside_hugging_face_s_model_has_its_losses(
    ours: str, tmp_path: Path
) -> None:
    _, told = compared(tmp_path / "found.json", "--rounds", "1", "--only", ours)
    (row,) = told["results"]
    assert row["loss_difference"] < 1e-6  # without memory 3e-6


@pytest.mark.parametrize("peer", ["gpt", "gpt-adaptive"])
def test_a_gpt_is_measured_beside_ours_and_the_machine_is_named(peer: str, tmp_path: Path) -> None:
    said, told = compared(
        tmp_path / "found.json", "--peer", peer, "--rounds", "2", "--only", "bf16"
    )
    assert said.startswith(f"processor {told['machine']['processor']}, torch ")
    (row,) = told["results"]
    low, high = row["range"]
    assert 0 < low <= row["ratio"] <= high
    assert sorted(row["peer_losses"], reverse=True) == row["peer_losses"]
    assert "another model, losses not compared" in said
