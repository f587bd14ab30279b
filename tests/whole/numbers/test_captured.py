"""A run whose micro steps are captured is the run bit by bit.

On a CPU: the same static tensors, in the same order, without a graph.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from builders import random_documents, write_corpus
from saved_checkpoints import memory_by_stream
from training import Case, begun_from, checkpoint_hashes, events, losses, overflowing, run_cases

from trainer import read_metrics
from trainer.errors import Exit

VOCABULARY, STREAMS, TGT_LEN, N_SEGMENTS, MAX_STEPS = 60, 8, 12, 9, 25
POISON = VOCABULARY - 1
COMMON = [
    "--model.cutoffs",
    "--model.dropout",
    "0.2",
    "--train.train-batch-size",
    str(STREAMS),
    "--train.tgt-len",
    str(TGT_LEN),
    "--train.max-steps",
    str(MAX_STEPS),
    "--checkpoint.interval-steps",
    "10",
    "--checkpoint.keep-last",
    "9",
    "--optim.lr",
    "3e-3",
]
#: A step's outcome is learned late only if nothing is recorded right after it.
SELDOM = ["--tracking.log-interval-steps", "5"]
CLUSTERS = ["--model.cutoffs", "20", "40"]
DOCUMENTS = ("--data.memory-reset", "document", "--train.mem-len", "12")
TABLES = ("--model.token-tables", "1", "--model.pair-rows", "200")
POISONED = ["--model.factory", "poisoned_model:build"]


class Kind(NamedTuple):
    """A kind of run, whether captured or not."""

    ds_config: str = "zero0_fp32"
    slots: int = 1
    text: str = "clean"
    flags: tuple[str, ...] = ()
    tolerance: float = 0.0
    """Of losses: with clusters a product has other numbers of rows, and sums in another order."""


KINDS = {
    "fp32": Kind(),
    "recorded seldom": Kind(flags=tuple(SELDOM)),
    "clusters": Kind(flags=tuple(CLUSTERS), tolerance=1e-5),
    "clusters in bf16": Kind("zero0_bf16_autocast", flags=tuple(CLUSTERS), tolerance=1e-3),
    "bf16, two slots": Kind("zero0_bf16_autocast", slots=2, flags=tuple(SELDOM)),
    "fp16, not finite": Kind("zero0_fp16_autocast", text="poisoned", flags=(*POISONED, *SELDOM)),
    "fp16, two slots": Kind("zero0_fp16_autocast", slots=2),
    "not finite": Kind(text="poisoned", flags=(*POISONED, *SELDOM)),
    "not finite, two slots": Kind(slots=2, text="poisoned", flags=(*POISONED,)),
    "documents, tables": Kind(flags=(*DOCUMENTS, *TABLES)),
    "documents, two slots": Kind(slots=2, flags=DOCUMENTS),
    "Lamb": Kind(flags=("--optim.type", "Lamb", *SELDOM)),
    "Muon": Kind(flags=("--optim.type", "Muon", *SELDOM)),
    "ZeRO-1, documents, tables": Kind("zero1_bf16", flags=(*DOCUMENTS, *TABLES)),
    "ZeRO-1, documents, two slots": Kind("zero1_bf16", slots=2, flags=(*DOCUMENTS, *SELDOM)),
    "ZeRO-1, not finite": Kind("zero1_bf16", text="poisoned", flags=tuple(POISONED)),
    "ZeRO-1 in fp16, not finite, two slots": Kind(
        "zero1_fp16", slots=2, text="poisoned", flags=(*POISONED, *SELDOM)
    ),
}
#: Those that are resumed.
RESUMED = ("recorded seldom", "fp16, not finite", "ZeRO-1 in fp16, not finite, two slots")


def write_texts(folder: Path) -> dict[str, Path]:
    """Write texts of 9 segments, the last one short; two streams of one read the poison."""
    n_pairs = STREAMS * (N_SEGMENTS * TGT_LEN - 5)
    documents = random_documents(n_pairs + 1, vocabulary_size=POISON, n_documents=4)
    paths = {"clean": write_corpus(folder / "clean", vocabulary_size=VOCABULARY, train=documents)}
    for document in documents[1::2]:
        document[len(document) // 2] = POISON
    poisoned = folder / "poisoned"
    paths["poisoned"] = write_corpus(poisoned, vocabulary_size=VOCABULARY, train=documents)
    return {name: corpus.path for name, corpus in paths.items()}


def case_of(kind: Kind, run_dir: Path, setting: str, *, n_ranks: int, texts: Any) -> Case:
    """Return a run of a kind, with this setting of `train.cuda_graph`."""
    micro = ["--train.train-micro-batch-size-per-gpu", str(STREAMS // n_ranks // kind.slots)]
    flags = [*COMMON, *micro, *kind.flags, "--train.cuda-graph", setting]
    file = overflowing(kind.ds_config, run_dir.parent)
    return Case(run_dir, file, flags, corpus=texts[kind.text])


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the directories of both runs of each kind, the captured one last."""
    folder, n_ranks = tmp_path_factory.mktemp("captured"), request.param
    texts = write_texts(folder)
    cases = {
        (name, setting): case_of(
            kind, folder / f"{name} {setting}", setting, n_ranks=n_ranks, texts=texts
        )
        for name, kind in KINDS.items()
        for setting in ("off", "on")
    }
    run_cases(list(cases.values()), corpus=texts["clean"], n_ranks=n_ranks)
    return {
        name: tuple(cases[name, setting].run_dir for setting in ("off", "on")) for name in KINDS
    }


@pytest.mark.parametrize("name", KINDS)
def test_losses_rates_and_checkpoints_are_those_of_the_usual_way(runs: Any, name: str) -> None:
    usual, captured = runs[name]
    tolerance = KINDS[name].tolerance
    wanted = losses(usual)
    if tolerance:
        assert losses(captured) == pytest.approx(wanted, rel=tolerance, abs=0)
    else:
        assert losses(captured) == wanted
    said = (captured / "logs/rank-00000.log").read_text()
    assert " tokens is captured" in said
    assert " tokens is captured" not in (usual / "logs/rank-00000.log").read_text()
    if tolerance:
        return
    kept = (
        "step",
        "update",
        "optim/lr",
        "optim/grad_norm",
        "optim/loss_scale",
        "optim/skipped_steps",
    )
    records = [
        [{key: record[key] for key in kept} for record in read_metrics(run, kind="train")]
        for run in (usual, captured)
    ]
    assert records[0] == records[1]
    for step in (10, 20):
        assert_same_checkpoints(captured, usual, step)


def assert_same_checkpoints(one: Path, other: Path, step: int) -> None:
    """Compare bit by bit, but for the bound of memory's length that is known without asking."""
    hashes, memories = [], []
    for run in (one, other):
        found = checkpoint_hashes(run, step)
        hashes.append({name: h for name, h in found.items() if not name.startswith("memory")})
        memories.append(memory_by_stream(run / "checkpoints" / f"step-{step:08d}"))
        del memories[-1]["memory.valid_min"]
    assert hashes[0] == hashes[1]
    torch.testing.assert_close(memories[0], memories[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in KINDS if "not finite" in name or "fp16" in name])
def test_skipped_steps_are_the_same_and_told_with_their_step(runs: Any, name: str) -> None:
    usual, captured = (
        [(event["step"], event["update"], event["loss_scale"]) for event in events(run, "skip")]
        for run in runs[name]
    )
    assert len(usual) >= 2
    assert captured == usual


def test_captured_runs_resume_as_the_runs(runs: Any, tmp_path: Path) -> None:
    some, _ = runs[RESUMED[0]]
    n_ranks = len(list((some / "logs").glob("*")))
    texts = {text: some.parent / text for text in ("clean", "poisoned")}
    resumed = {
        name: case_of(
            KINDS[name],
            begun_from(runs[name][1], 10, tmp_path / name),
            "on",
            n_ranks=n_ranks,
            texts=texts,
        )
        for name in RESUMED
    }
    run_cases(list(resumed.values()), corpus=texts["clean"], n_ranks=n_ranks)
    for name, case in resumed.items():
        usual, _ = runs[name]
        assert losses(case.run_dir) == {s: x for s, x in losses(usual).items() if s > 10}
        assert_same_checkpoints(case.run_dir, usual, 20)


@pytest.mark.parametrize(
    ("ds_config", "flags", "why"),
    [
        ("zero2_fp32", [], "ZeRO-2 and 3 reduce gradients on the way"),
        ("zero0_fp32", ["--model.activation-checkpointing", "True"], "the model is not static"),
        (
            "zero0_fp32",
            ["--model.factory", "linear_attention_model:build"],
            "the model is not static",
        ),
    ],
)
def test_what_cannot_be_captured_is_refused_if_it_was_asked_for(
    tmp_path: Path, ds_config: str, flags: list[str], why: str
) -> None:
    corpus = write_texts(tmp_path)["clean"]
    asked = ["--train.cuda-graph", "on"]
    case = Case(tmp_path / "run", ds_config, [*COMMON, *flags, *asked], ends=Exit.BAD_INPUT)
    (told,) = run_cases([case], corpus=corpus, n_ranks=1)
    assert why in told
    assert "--train.cuda-graph auto" in told
