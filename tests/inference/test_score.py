"""Every token but the first is scored exactly once, with the memory one long pass would have."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    empty,
    lone_world,
    random_documents,
    random_split,
    scoring,
    tiny_model,
    write_split,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.errors import InputError
from trainer.inference.score import Score, ScorePlan, score
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Memory, Output, Segment, layered

V, N = 20, 60


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("eval")
    return random_split(folder, N, vocabulary_size=V, n_documents=5)


@pytest.fixture(scope="module")
def model() -> TransformerXL:
    return tiny_model(V, cutoffs=(6, 12), n_layer=3).eval()


def run(
    model: TransformerXL,
    split: Split,
    settings: ScoringConfig,
    *,
    world_size: int = 1,
    cut_documents: bool = False,
) -> tuple[float, torch.Tensor]:
    """Return mean nats, and nats by position in the split, of ranks that take turns."""
    nats_N = torch.full((split.n_tokens,), torch.nan)
    scores = []

    def keep(position: int, nll_T: torch.Tensor) -> None:
        assert nats_N[position : position + len(nll_T)].isnan().all()
        nats_N[position : position + len(nll_T)] = nll_T

    for rank in range(world_size):
        one = score(
            model,
            split,
            scoring=settings,
            reach=model.reach,
            on_tokens=keep,
            first_memory=lambda rows, mem_len: empty(model, rows, mem_len),
            cutoffs=model.config.cutoffs,
            cut_documents=cut_documents,
            world=lone_world(rank=rank, world_size=world_size),
        )
        assert one is not None
        scores.append(one)
    assert {s.n_tokens for s in scores} == {split.n_tokens - 1}
    assert nats_N.isnan().nonzero().tolist() == [[0]]
    loss_sum = sum(s.loss_sum for s in scores)
    assert loss_sum == pytest.approx(float(nats_N[1:].double().sum()))
    return loss_sum / (split.n_tokens - 1), nats_N[1:]


@pytest.fixture
def _ranks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each rank keep its own sum: one process cannot reduce over two, so the test adds them."""
    monkeypatch.setattr("trainer.inference.score.sum_floats", lambda values, world: values)


LENGTHS: dict[str, dict[str, Any]] = {
    "memory longer": {"tgt_len": 4, "mem_len": 6},
    "memory shorter": {"tgt_len": 5, "mem_len": 3},
    "no memory": {"tgt_len": 7, "mem_len": 0},
    "same length, clamped": {"tgt_len": 3, "mem_len": 6, "same_length": True, "clamp_len": 4},
}


@pytest.mark.usefixtures(_ranks_take_turns.__name__)
@pytest.mark.parametrize("cut_documents", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_neither_rows_nor_ranks_change_the_nats_of_any_token(
    model: TransformerXL, split: Split, lengths: str, cut_documents: bool
) -> None:
    def at(batch_size: int, world_size: int) -> tuple[float, torch.Tensor]:
        settings = scoring(**LENGTHS[lengths], batch_size=batch_size)
        return run(model, split, settings, world_size=world_size, cut_documents=cut_documents)

    one_long_pass, nats = at(1, 1)
    for batch_size, world_size in [(2, 1), (3, 2), (1, 4), (16, 1), (7, 3)]:
        loss, others = at(batch_size, world_size)
        assert loss == pytest.approx(one_long_pass, abs=1e-6)
        torch.testing.assert_close(others, nats, rtol=0, atol=1e-5)


def test_rows_warmed_near_differ_from_one_long_pass(model: TransformerXL, split: Split) -> None:
    _, exact = run(model, split, scoring(batch_size=1))
    _, near = run(model, split, scoring(batch_size=5, warm="near"))
    assert (near - exact).abs().max() > 1e-3
    first_row = N // 5 // 4 * 4
    torch.testing.assert_close(near[:first_row], exact[:first_row], rtol=0, atol=1e-5)


def test_under_same_length_nats_do_not_depend_on_tgt_len(
    model: TransformerXL, split: Split
) -> None:
    options = {"mem_len": 6, "same_length": True, "clamp_len": 4, "batch_size": 3}
    _, expected = run(model, split, scoring(tgt_len=1, **options))
    for tgt_len in (2, 5, 16, 59):
        _, nats = run(model, split, scoring(tgt_len=tgt_len, **options))
        torch.testing.assert_close(nats, expected, rtol=0, atol=1e-5)


def test_a_document_does_not_see_the_one_before_where_memory_is_cut(
    model: TransformerXL, tmp_path: Path
) -> None:
    documents = random_documents(40, vocabulary_size=V)[0]
    first, second = documents[:17], documents[17:]
    nats = {}
    for name, before in {"one": first, "other": (first + 1) % V}.items():
        text = write_split(tmp_path / name, [before, second], vocabulary_size=V)
        for cut in (True, False):
            settings = scoring(tgt_len=8, mem_len=12, batch_size=2)
            nats[name, cut] = run(model, text, settings, cut_documents=cut)[1][17:]
    torch.testing.assert_close(nats["one", True], nats["other", True], rtol=0, atol=1e-6)
    assert (nats["one", False] - nats["other", False]).abs().max() > 1e-3


@pytest.mark.usefixtures(_ranks_take_turns.__name__)
@pytest.mark.parametrize("same_length", [True, False])
def test_a_text_has_one_loss_at_every_batch_size_and_number_of_ranks(
    tmp_path: Path, same_length: bool
) -> None:
    model = tiny_model(V).eval()
    documents = random_documents(1500, vocabulary_size=V)
    split = write_split(tmp_path / "corpus", documents, vocabulary_size=V)
    losses = {}
    for tgt_len in (16, 64, 320):
        at = {"tgt_len": tgt_len, "mem_len": 64, "same_length": same_length}
        losses[tgt_len] = [
            run(model, split, scoring(batch_size=batch_size, **at), world_size=world_size)[0]
            for batch_size in (1, 4)
            for world_size in (1, 2)
        ]
        assert losses[tgt_len] == pytest.approx([losses[tgt_len][0]] * 4, abs=1e-6)
    ends = [losses[tgt_len][0] for tgt_len in losses]
    # With same_length every token sees as much wherever its row was cut; else it does not.
    assert (max(ends) - min(ends) < 1e-6) is same_length


@pytest.mark.parametrize("asked", [{"as_fairseq": True}, {"on_tokens": lambda *_: None}])
def test_a_model_that_does_not_tell_nats_by_token_is_scored_as_a_whole_alone(
    model: TransformerXL, split: Split, asked: dict[str, Any]
) -> None:
    def silent(segment: Segment, memory: Memory, **lengths: Any) -> Output:
        return model(segment, memory, **lengths)._replace(nll_BT=None)

    def scored(**asked: Any) -> Score | None:
        return score(
            silent,
            split,
            scoring=scoring(),
            reach=layered(3),
            world=lone_world(),
            first_memory=lambda rows, mem_len: empty(model, rows, mem_len),
            cutoffs=model.config.cutoffs,
            cut_documents=False,
            **asked,
        )

    whole = scored()
    assert whole is not None
    assert whole.loss == pytest.approx(run(model, split, scoring())[0])
    with pytest.raises(InputError, match=r"does not tell the nats of single tokens"):
        scored(**asked)


@st.composite
def plans(draw: st.DrawFn) -> Callable[[int], ScorePlan]:
    settings = scoring(
        tgt_len=draw(st.integers(1, 7)),
        mem_len=draw(st.integers(0, 12)),
        batch_size=draw(st.integers(1, 6)),
        warm=draw(st.sampled_from(["exact", "near"])),
    )
    n_pairs, n_layer = draw(st.integers(1, 150)), draw(st.integers(1, 4))
    world_size = draw(st.integers(1, 4))
    return lambda rank: ScorePlan(
        n_pairs=n_pairs, scoring=settings, reach=layered(n_layer), rank=rank, world_size=world_size
    )


@given(plans())
@settings(deadline=None, max_examples=300)
def test_ranks_score_every_pair_once_in_equally_many_forward_passes(
    plan_of: Callable[[int], ScorePlan],
) -> None:
    ranks = [plan_of(rank) for rank in range(plan_of(0).world_size)]
    assert len({plan.n_forwards for plan in ranks}) == 1
    scored: Counter[int] = Counter()
    for plan in ranks:
        passes = [
            zip(*map(np.ndarray.tolist, plan.spans(i)[:3]), strict=True)
            for i in range(plan.n_forwards)
        ]
        for row in zip(*passes, strict=True):
            real = [(begin, length, is_scored) for begin, length, is_scored in row if length]
            # One unbroken run of whole segments, of which the first ones only warm the memory.
            assert all(a[0] + a[1] == b[0] for a, b in pairwise(real))
            assert all(begin % plan.scoring.tgt_len == 0 for begin, *_ in real)
            told = [is_scored for *_, is_scored in real]
            assert told == sorted(told)
            from_start = not real or real[0][0] == 0
            assert from_start or told.count(False) == plan.lead
            for begin, length, is_scored in real:
                if is_scored:
                    scored.update(range(begin, begin + length))
    assert scored == dict.fromkeys(range(ranks[0].n_pairs), 1)


def test_rows_read_ahead_as_far_as_the_top_layer_can_look() -> None:
    def lead(batch_size: int) -> int:
        settings = scoring(tgt_len=4, mem_len=6, batch_size=batch_size)
        return ScorePlan(
            n_pairs=10_000, scoring=settings, reach=layered(3), rank=0, world_size=1
        ).lead

    assert lead(8) == 3 * 2
    assert lead(1) == 0  # the first row begins where the text does


def test_scoring_gives_up_when_asked(model: TransformerXL, split: Split) -> None:
    asked, n_passes = [], 0

    def should_stop() -> bool:
        asked.append(n_passes)
        return len(asked) == 2

    def forward(segment: Segment, memory: Memory, **how: Any) -> Output:
        nonlocal n_passes
        n_passes += 1
        output: Output = model(segment, memory, **how)
        return output

    result = score(
        forward,
        split,
        scoring=scoring(tgt_len=1, batch_size=1),
        reach=layered(3),
        world=lone_world(),
        first_memory=lambda rows, mem_len: empty(model, rows, mem_len),
        cutoffs=model.config.cutoffs,
        cut_documents=False,
        should_stop=should_stop,
    )
    assert result is None
    assert asked == [16, 32]  # asking may take a collective: not at every pass


def test_a_split_of_one_token_cannot_be_scored(model: TransformerXL, tmp_path: Path) -> None:
    split = write_split(tmp_path / "corpus", [[3]], vocabulary_size=V)
    with pytest.raises(InputError, match="split 'train' has one token"):
        run(model, split, scoring())


def test_units_follow_from_nats_per_token(split: Split) -> None:
    # Corpora of the tests count one word and three characters per token.
    values = Score(loss=2.0, n_tokens=N - 1, loss_sum=2.0 * (N - 1), seconds=1.0).metrics(split)
    assert values == pytest.approx(
        {"loss": 2.0, "ppl": math.exp(2), "ppl_word": math.exp(2), "bpc": 2 / math.log(2) / 3}
    )
