"""The losses do not depend on how the batch is split, nor on how the optimizer's state is."""

import math

import pytest
from training import Case, losses, run_cases

from trainer import read_metrics
from trainer.data.corpus import open_corpus

STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
TGT_LEN = 30
EXACT = [
    "--train.tgt-len",
    str(TGT_LEN),
    "--model.dropout",
    "0",
    "--model.token-tables",
    "1",
    "--model.pair-rows",
    "200",
    "--data.epoch-order",
    "roll",
    "--data.memory-reset",
    "document",
]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Return losses of 30 steps by (stage, ranks, slots), 8 streams each; and without memory."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for n_ranks, slots in ((1, 1), (1, 4), (2, 2), (2, 1)):
        micro = ["--train.train-micro-batch-size-per-gpu", str(8 // n_ranks // slots)]
        cases = {
            (stage, n_ranks, slots): Case(
                folder / f"{stage}-{n_ranks}-{slots}", stage, EXACT + micro
            )
            for stage in STAGES
        }
        if n_ranks == slots == 1:
            cases["no memory"] = Case(folder / "none", STAGES[0], [*EXACT, "--train.mem-len", "0"])
        run_cases(list(cases.values()), corpus=corpus, n_ranks=n_ranks)
        found |= {key: losses(case.run_dir) for key, case in cases.items()}
    records = read_metrics(folder / "zero0_fp32-1-1", kind="train")
    return found | {"gradient norms": [record["optim/grad_norm"] for record in records]}


def test_losses_do_not_depend_on_how_the_batch_is_split(runs):
    reference = runs["zero0_fp32", 1, 1]
    assert len(reference) == 30
    for key, found in runs.items():
        if isinstance(key, tuple):
            assert found == pytest.approx(reference, rel=1e-5), key


def test_clipping_was_active(runs):
    assert sum(norm > 0.25 for norm in runs["gradient norms"]) > 15


def test_memory_matters_to_these_losses(runs):
    """A difference a hundred times what the losses may differ by at another split."""
    reference, without = runs["zero0_fp32", 1, 1], runs["no memory"]
    assert max(abs(without[step] / reference[step] - 1) for step in reference) > 1e-3


def test_the_steps_cross_an_epoch_with_a_padded_last_segment(corpus):
    n_pairs = open_corpus(corpus).splits["train"].n_tokens - 1
    steps_per_epoch = math.ceil(math.ceil(n_pairs / 8) / TGT_LEN)
    assert steps_per_epoch < 30
    assert (n_pairs // 8) % TGT_LEN
