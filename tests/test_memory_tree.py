"""A memory of any shape is walked over by name, forgotten by stream, and checked once."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.memory_tree import check_made, check_returned, forget_streams, leaves, rebuilt

B = 3


class Inner(NamedTuple):
    """Part of a memory."""

    matrix: Tensor
    n_read: int


class Carried(NamedTuple):
    """A memory with everything that one may have."""

    layers: tuple[Inner, ...]
    count_B: Tensor


def carried(n_streams: int = B, *, fill: float = 0.0, n_read: int = 0) -> Carried:
    """Return a memory of five dimensions, one and none, in two dtypes."""
    layers = tuple(Inner(torch.full((n_streams, 2, 2, 3, 4), fill), n_read) for _ in range(2))
    return Carried(layers, torch.full((n_streams,), int(fill)))


def test_what_a_memory_holds_has_names() -> None:
    assert [name for name, _ in leaves(carried())] == [
        "memory.layers.0.matrix",
        "memory.layers.0.n_read",
        "memory.layers.1.matrix",
        "memory.layers.1.n_read",
        "memory.count_B",
    ]
    assert [name for name, _ in leaves(torch.zeros(1))] == ["memory"]
    assert list(leaves(())) == []


@pytest.mark.parametrize("memory", [carried(), (torch.ones(2), ()), torch.ones(1)])
def test_a_memory_is_rebuilt_of_its_leaves_in_its_own_nesting(memory: Any) -> None:
    again = rebuilt(memory, dict(leaves(memory)))
    assert type(again) is type(memory)
    assert str(again) == str(memory)


def test_forgotten_streams_are_what_they_are_before_they_read_and_others_stay() -> None:
    memory = carried(fill=7.0, n_read=5)
    memory.layers[0].matrix[1] = torch.nan
    memory.layers[1].matrix[2] = torch.inf
    before = carried(1, fill=-1.0, n_read=2)  # not all models begin with zeros
    left = forget_streams(memory, torch.tensor([True, False, False]), unread=before)
    for layer in left.layers:
        assert torch.equal(layer.matrix[0], torch.full_like(layer.matrix[0], 7.0))
        assert torch.equal(layer.matrix[1:], torch.full_like(layer.matrix[1:], -1.0))
        assert layer.n_read == 2
    assert left.count_B.tolist() == [7, -1, -1]
    kept = forget_streams(carried(fill=7.0, n_read=1), torch.ones(B).bool(), unread=before)
    assert kept.layers[0].n_read == 1


def test_forgetting_changes_no_dtype() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.bool, torch.int32):
        memory = torch.ones(B, 2).to(dtype)
        left = forget_streams(memory, torch.tensor([True, False, True]), unread=memory[:1])
        assert left.dtype == dtype


def test_a_memory_that_can_be_carried_on_is_let_be() -> None:
    check_made(carried(), n_streams=B)
    check_returned(carried(fill=1.0, n_read=4), carried())
    check_returned((torch.zeros(B, 0),), (torch.zeros(B, 0),))  # nothing lies nowhere


def aliased(memory: Carried) -> Carried:
    """Return a memory of which a part is a view of the one before."""
    first = memory.layers[0]._replace(matrix=memory.layers[0].matrix[:])
    return carried()._replace(layers=(first, carried().layers[1]))


BEFORE = carried()
BAD: dict[str, tuple[Any, str]] = {
    "attached": (
        carried()._replace(count_B=torch.zeros(B).requires_grad_()),
        r"memory\.count_B is attached to the graph: detach it",
    ),
    "aliased": (
        aliased(BEFORE),
        r"memory\.layers\.0\.matrix lies where the memory before it lies: return a new tensor",
    ),
    "another shape": (
        carried()._replace(count_B=torch.zeros(B, 2).long()),
        r"memory\.count_B was 3 in int64 and is 3×2 in int64",
    ),
    "another dtype": (
        carried()._replace(count_B=torch.zeros(B)),
        r"memory\.count_B was 3 in int64 and is 3 in float32",
    ),
    "other streams": (carried(B + 1), r"memory\.layers\.0\.matrix is 4×2×2×3×4 .* not 3 streams"),
    "less": (carried()._replace(layers=()), r"memory\.layers\.0\.matrix is missing"),
    "more": (
        carried()._replace(layers=(*carried().layers, carried().layers[0])),
        "2.matrix is new",
    ),
    "a tensor for a number": (
        carried()._replace(layers=(Inner(torch.zeros(B, 2, 2, 3, 4), torch.zeros(B)),) * 2),  # type: ignore[arg-type]
        r"memory\.layers\.0\.n_read was a int and is a Tensor",
    ),
    "a list": (list(carried()), r"memory is a list, no tensor, tuple or number"),
    "complex numbers": (
        carried()._replace(count_B=torch.zeros(B, dtype=torch.complex128)),
        r"memory\.count_B is complex128, which no checkpoint can hold",
    ),
    "sparse": (
        carried()._replace(count_B=torch.zeros(B).to_sparse()),
        r"memory\.count_B is torch\.sparse_coo, which is not carried: make it dense",
    ),
    "something else": (
        carried()._replace(count_B="many"),  # type: ignore[arg-type]
        r"memory\.count_B is a str, no tensor, tuple or number",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_memory_that_cannot_be_carried_on_is_told_in_one_line(kind: str) -> None:
    memory, told = BAD[kind]
    with pytest.raises(InputError, match=told) as error:
        check_returned(memory, BEFORE)
    assert "the memory that the model's forward returns" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_memory_has_the_streams_first() -> None:
    with pytest.raises(InputError, match=r"empty_memory .* memory is 2×3 in .* not 3 streams"):
        check_made(torch.zeros(2, 3), n_streams=3)
    with pytest.raises(InputError, match="memory is a number in float32, not 3 streams first"):
        check_made(torch.zeros(()), n_streams=3)
