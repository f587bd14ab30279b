"""Reading with weights that stay as they are: less is computed, and the nats are the same."""

from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    CPU,
    empty,
    lone_world,
    random_documents,
    scoring,
    segment_of,
    tiny_model,
    write_split,
)

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.data.positions import Spans
from trainer.data.rows import make_segment
from trainer.inference.score import LONGEST, ScorePlan, fastest, score
from trainer.model.memory.written import KeysAndValues, Room, spare_positions
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Memory, Output, Segment, layered, reading_memory

V = 17


def projected(model: TransformerXL, n_rows: int, mem_len: int) -> KeysAndValues:
    dtype = next(model.parameters()).dtype
    return reading_memory(model, n_rows, mem_len=mem_len, dtype=dtype, device=CPU)


MODELS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm, a bias per layer": {"norm": "pre", "position_biases": "per_layer"},
    "plain kernels": {"kernels": "plain"},
    "tables": {"token_tables": 2, "pair_rows": 31},
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("lengths", [{}, {"clamp_len": 3}, {"same_length": True, "clamp_len": 2}])
def test_a_memory_of_keys_and_values_gives_what_a_memory_of_inputs_does(
    kind: str, lengths: dict[str, Any]
) -> None:
    model = tiny_model(V, cutoffs=(6, 12), n_layer=3, **MODELS[kind]).eval()
    memories = {"inputs": empty(model, 3, 5), "keys and values": projected(model, 3, 5)}
    torch.manual_seed(0)
    starts_BT = torch.tensor([[-1, 1, 1], [-1, -1, -1], [0, 0, 2]])
    pieces = [
        segment_of(torch.randint(V, (3, 4)), cutoffs=(6, 12)),
        segment_of(torch.randint(V, (3, 4)), cutoffs=(6, 12), lengths=[4, 2, 0]),
        segment_of(torch.randint(V, (3, 1)), cutoffs=(6, 12)),
        segment_of(torch.randint(V, (3, 3)), cutoffs=(6, 12), starts_BT=starts_BT),
        segment_of(torch.randint(V, (3, 7)), cutoffs=(6, 12)),
    ]
    with torch.no_grad():
        for piece in pieces:
            found = {}
            for name, memory in memories.items():
                found[name] = model(piece, memory, **lengths)
                memories[name] = found[name].memory
            one, other = found.values()
            torch.testing.assert_close(one.nll_BT, other.nll_BT, rtol=1e-12, atol=1e-12)
            assert torch.equal(one.memory.valid_B, other.memory.valid_B)
            assert one.memory.valid_min == other.memory.valid_min


def test_keys_values_and_positions_are_projected_once() -> None:
    model = tiny_model(V, n_layer=2).eval()
    rows: list[tuple[str, int]] = []
    for name in ("key_value", "position"):
        module = getattr(model.layers[0].attention, name)
        module.register_forward_hook(
            lambda _, args, __, name=name: rows.append((name, args[0].shape[-2]))
        )
    memory = projected(model, 1, 6)
    with torch.no_grad():
        for tokens_BT in torch.randint(V, (1, 12)).split(4, dim=1):
            memory = model(segment_of(tokens_BT), memory).memory
    # Of the three segments the new tokens alone, and of the positions only the first time.
    assert rows == [("key_value", 4), ("position", 10), ("key_value", 4), ("key_value", 4)]


def read(model: TransformerXL, texts: list[torch.Tensor], memory: KeysAndValues) -> torch.Tensor:
    """Return the nats of all segments, read one after another."""
    nats = []
    with torch.no_grad():
        for tokens_BT in texts:
            output = model(segment_of(tokens_BT), memory)
            memory = output.memory
            nats.append(output.nll_BT)
    return torch.cat(nats, dim=1)


@pytest.mark.parametrize("mem_len", [0, 1, 6, 40])
def test_of_one_memory_any_number_of_texts_can_go_on(mem_len: int) -> None:
    """The texts share what was read before, and none sees what another reads."""
    model = tiny_model(V, n_layer=2).eval()
    torch.manual_seed(3)
    begun = projected(model, 2, mem_len)
    with torch.no_grad():
        for tokens_BT in torch.randint(V, (2, 9)).split(3, dim=1):
            begun = model(segment_of(tokens_BT), begun).memory
    texts = [list(torch.randint(V, (2, n)).split(cut, dim=1)) for n, cut in ((8, 1), (12, 5))]
    alone = [read(model, text, with_copied_room(begun)) for text in texts]
    memories, found = [begun, begun], [[], []]  # type: ignore[var-annotated]
    for turn in range(8):  # in turns, each from its own memory
        for i in range(2):
            if turn < len(texts[i]):
                with torch.no_grad():
                    output = model(segment_of(texts[i][turn]), memories[i])
                memories[i] = output.memory
                found[i].append(output.nll_BT)
    for one, wanted in zip(found, alone, strict=True):
        assert torch.equal(torch.cat(one, dim=1), wanted)


def with_copied_room(memory: KeysAndValues) -> KeysAndValues:
    rows = tuple(x.clone() for x in memory.room.layers)
    return memory._replace(room=Room(rows, memory.room.n_written))


def test_tokens_that_come_one_by_one_are_written_where_they_stay() -> None:
    model = tiny_model(V, n_layer=1).eval()
    memory, rooms = projected(model, 1, 40), list[Room]()
    with torch.no_grad():
        for tokens_BT in torch.randint(V, (1, 100)).split(1, dim=1):
            memory = model(segment_of(tokens_BT), memory).memory
            if memory.room not in rooms:
                rooms.append(memory.room)  # which keeps its place from being used again
            assert memory.layers[0].shape[1] == 40
    assert len(rooms) == -(-100 // spare_positions(40))
    assert (spare_positions(0), spare_positions(40), spare_positions(1600)) == (16, 16, 100)


def test_gradients_of_a_segment_go_through_its_own_keys_and_values() -> None:
    model = tiny_model(V, n_layer=2).eval()
    segment = segment_of(torch.randint(V, (2, 5)))
    found = []
    for memory in (empty(model, 2, 0), projected(model, 2, 0)):
        loss = model(segment, memory).loss_sum
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_training_refuses_a_memory_that_holds_as_long_as_the_weights_do() -> None:
    model = tiny_model(V).train()
    with pytest.raises(AssertionError, match="weights do not stay"):
        model(segment_of(torch.zeros(1, 2, dtype=torch.int64)), projected(model, 1, 3))


def plan(n_pairs: int, **settings: Any) -> ScorePlan:
    """Return the plan for a model as deep as wt103's, on one rank."""
    settings = {"batch_size": 1, **settings}
    how = {"reach": layered(16), "rank": 0, "world_size": 1}
    return ScorePlan(n_pairs=n_pairs, scoring=scoring(**settings), **how)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    documents = random_documents(101, vocabulary_size=V, n_documents=4, seed=3)
    return write_split(tmp_path_factory.mktemp("read") / "corpus", documents, vocabulary_size=V)


@pytest.mark.parametrize(
    ("tgt_len", "mem_len", "same_length", "read"),
    [
        (4, 16, True, 16),
        (4, 18, True, 16),
        (5, 6, True, 5),
        (1, 40, True, 40),
        (4, 16, False, 4),
        (64, 10_000, True, LONGEST),
        (3, 0, False, 3),
        (600, 600, True, 600),
    ],
)
def test_segments_of_long_rows_are_lengthened_under_same_length_alone(
    tgt_len: int, mem_len: int, same_length: bool, read: int
) -> None:
    asked = plan(10**6, tgt_len=tgt_len, mem_len=mem_len, same_length=same_length)
    found = fastest(asked)
    assert found.scoring.tgt_len == read
    assert found.scoring == asked.scoring.model_copy(update={"tgt_len": read})


@pytest.mark.parametrize("batch_size", [1, 8, 32, 200])
@pytest.mark.parametrize("n_pairs", [1, 100, 20_000, 245_568])
@pytest.mark.parametrize("warm", ["exact", "near"])
def test_the_cheapest_of_all_allowed_lengths_is_taken(
    n_pairs: int, batch_size: int, warm: str
) -> None:
    sizes = {"mem_len": 640, "same_length": True, "batch_size": batch_size, "warm": warm}

    found = fastest(plan(n_pairs, tgt_len=64, **sizes))
    assert found.scoring.tgt_len <= n_pairs + 1
    lengths = {min(64 * n, n_pairs + 1) for n in range(1, 9)}
    assert found.cost == min(plan(n_pairs, tgt_len=n, **sizes).cost for n in lengths)


def test_the_validation_of_wt103_is_read_by_320_in_32_rows_and_by_512_in_one() -> None:
    """Two segments of 320 fill its memory of 640; longer ones would be read ahead by as many."""
    sizes = {"tgt_len": 64, "mem_len": 640, "same_length": True}
    assert fastest(plan(245_568, **sizes, batch_size=32)).scoring.tgt_len == 320
    assert fastest(plan(245_568, **sizes, batch_size=1)).scoring.tgt_len == 512


@pytest.mark.parametrize("cut_documents", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_lengthened_segments_and_projected_memories_give_the_nats_of_a_token_at_a_time(
    split: Split, batch_size: int, cut_documents: bool
) -> None:
    model = tiny_model(V, cutoffs=(6, 12), n_layer=3).eval()
    widths: set[int] = set()

    def forward(segment: Segment, memory: Memory, **lengths: Any) -> Output:
        assert isinstance(memory, KeysAndValues)
        widths.add(segment.tokens_BT.shape[1])
        output: Output = model(segment, memory, **lengths)
        return output

    def nats(settings: ScoringConfig) -> torch.Tensor:
        found_N = torch.full((split.n_tokens,), torch.nan, dtype=torch.float64)

        def keep(position: int, nll_T: torch.Tensor) -> None:
            found_N[position : position + len(nll_T)] = nll_T

        score(
            forward,
            split,
            scoring=settings,
            reach=layered(3),
            on_tokens=keep,
            world=lone_world(),
            first_memory=lambda rows, mem_len: projected(model, rows, mem_len),
            cutoffs=(6, 12),
            cut_documents=cut_documents,
        )
        return found_N[1:]

    kept = {"mem_len": 16, "same_length": True, "batch_size": batch_size}
    wanted_N = one_by_one(model, split, cut_documents=cut_documents)
    for tgt_len in (1, 4, 8, 9, 64):
        found_N = nats(scoring(tgt_len=tgt_len, **kept))
        torch.testing.assert_close(found_N, wanted_N, rtol=1e-10, atol=1e-10)
    assert widths > {9, 64}
    assert min(widths) > 1, "short segments are lengthened"


def one_by_one(model: TransformerXL, split: Split, *, cut_documents: bool) -> torch.Tensor:
    """Return nats of all targets, read a token at a time with a memory of inputs."""
    memory, nats = empty(model, 1, 16), []
    for pair in range(split.n_tokens - 1):
        begin, one, end = (np.array([n]) for n in (pair, 1, split.n_tokens - 1))
        segment = make_segment(
            split,
            Spans(begin, one, one > 0, 0 * one, end),
            tgt_len=1,
            cutoffs=(6, 12),
            cut_documents=cut_documents,
        )
        with torch.no_grad():
            output = model(segment, memory, same_length=True)
        memory = output.memory
        nats.append(output.nll_BT[0])
    return torch.cat(nats)


def test_a_model_with_a_memory_of_its_own_is_read_with_that() -> None:
    class Other:
        def empty_memory(self, n_streams: int, **_: Any) -> torch.Tensor:
            return torch.zeros(n_streams, 4)

    memory = reading_memory(Other(), 2, mem_len=3, dtype=torch.float32, device=CPU)
    assert memory.shape == (2, 4)
