"""Properties of every kind of model in the package, beside those that its own tests hold."""

from typing import Any

import pytest
import torch
from builders import segment_of
from family_models import TOY, V, toy, unread
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.config.kinds import FACTORIES
from trainer.memory_tree import leaves, rebuilt
from trainer.protocol import reach_of

#: Kinds whose state is the same wherever the text is cut into segments.
CUT_ANYWHERE = sorted(set(TOY) - {"rmt", "compressive"})


@pytest.fixture(params=sorted(TOY))
def model(request: pytest.FixtureRequest) -> Any:
    return toy(request.param)


def texts(n_rows: int = 3, tgt_len: int = 7) -> torch.Tensor:
    return torch.randint(V, (n_rows, tgt_len), generator=torch.Generator().manual_seed(1))


def read(model: Any, n_rows: int = 3) -> Any:
    """Return memory that has read something."""
    return model(segment_of(texts(n_rows, 5).flip(0, 1)), unread(model, n_rows)).memory


def parts(memory: Any, rows: Any = slice(None)) -> dict[str, torch.Tensor]:
    """Return the tensors of a memory by name, of some rows."""
    return {name: leaf[rows] for name, leaf in leaves(memory)}


def rows_of(memory: Any, rows: list[int]) -> Any:
    """Return the memory of some rows."""
    return rebuilt(memory, parts(memory, rows))


def test_every_kind_is_tried() -> None:
    assert TOY.keys() == FACTORIES.keys()


@pytest.mark.parametrize("kind", CUT_ANYWHERE)
def test_a_text_costs_the_same_nats_wherever_it_is_cut(kind: str) -> None:
    model = toy(kind)
    tokens_BT = texts(2, 23)
    whole_segment = segment_of(tokens_BT)
    whole = model(whole_segment, read(model, 2))
    memory, nats = read(model, 2), []
    for begin, end in [(0, 1), (1, 6), (6, 7), (7, 23)]:
        targets_BT = whole_segment.targets_BT[:, begin:end]
        output = model(segment_of(tokens_BT[:, begin:end], targets_BT), memory)
        memory = output.memory
        nats.append(output.nll_BT)
    torch.testing.assert_close(torch.cat(nats, dim=1), whole.nll_BT)
    torch.testing.assert_close(parts(memory), parts(whole.memory))


def test_what_it_predicts_costs_the_nats_that_it_says(model: Any) -> None:
    segment, memory = segment_of(texts(), lengths=[7, 3, 5]), read(model)
    output = model(segment, memory)
    log_probs_BTV, after = model.predict(segment, memory)
    is_real_BT = segment.targets_BT >= 0
    nll_BT = -log_probs_BTV.gather(2, segment.targets_BT.clamp_min(0)[..., None])[..., 0]
    torch.testing.assert_close(nll_BT * is_real_BT, output.nll_BT)
    torch.testing.assert_close(output.loss_sum, output.nll_BT.sum())
    torch.testing.assert_close(parts(after), parts(output.memory))


def test_a_row_reads_its_own_tokens_and_no_padding(model: Any) -> None:
    tokens_BT, memory = texts(), read(model)
    padded = segment_of(tokens_BT, lengths=[7, 0, 4])
    output = model(padded, memory)
    other = padded._replace(tokens_BT=tokens_BT.where(padded.targets_BT >= 0, 5))
    again = model(other, memory)
    torch.testing.assert_close(again.nll_BT, output.nll_BT)
    torch.testing.assert_close(parts(again.memory), parts(output.memory))
    for name, old in parts(memory).items():
        assert torch.equal(parts(output.memory)[name][1], old[1])
    alone = model(
        segment_of(tokens_BT[2:, :4], padded.targets_BT[2:, :4]),
        rows_of(memory, [2]),
    )
    torch.testing.assert_close(alone.nll_BT, output.nll_BT[2:, :4])
    torch.testing.assert_close(parts(alone.memory), parts(output.memory, [2]))


def test_rows_are_strangers_in_any_order(model: Any) -> None:
    tokens_BT, memory, order = texts(), read(model), [2, 0, 1]
    output = model(segment_of(tokens_BT, lengths=[7, 2, 5]), memory)
    shuffled = model(segment_of(tokens_BT[order], lengths=[5, 7, 2]), rows_of(memory, order))
    torch.testing.assert_close(shuffled.nll_BT, output.nll_BT[order])
    torch.testing.assert_close(parts(shuffled.memory), parts(output.memory, order))


def test_no_token_sees_a_later_one(model: Any) -> None:
    tokens_BT, memory = texts(), read(model)
    seen, _ = model.predict(segment_of(tokens_BT), memory)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 4:] = (changed_BT[:, 4:] + 1) % V
    other, _ = model.predict(segment_of(changed_BT), memory)
    torch.testing.assert_close(other[:, :4], seen[:, :4])
    assert not torch.allclose(other[:, 4:], seen[:, 4:])


def test_memory_is_new_and_without_a_graph_unless_it_is_asked_for(model: Any) -> None:
    memory = read(model)
    held = {leaf.untyped_storage().data_ptr() for leaf in parts(memory).values()}
    before = {name: leaf.clone() for name, leaf in parts(memory).items()}
    for segment in (segment_of(texts()), segment_of(texts(), lengths=[7, 0, 1])):
        found = [model(segment, memory).memory, model.predict(segment, memory)[1]]
        for after in found:
            for name, leaf in parts(after).items():
                assert not leaf.requires_grad
                assert leaf.untyped_storage().data_ptr() not in held
                assert (leaf.shape, leaf.dtype) == (before[name].shape, before[name].dtype)
        found = attached(model, segment, memory)
        states = [leaf for leaf in parts(found).values() if leaf.is_floating_point()]
        assert states
        assert all(leaf.requires_grad for leaf in states)
    torch.testing.assert_close(parts(memory), before)


def attached(model: Any, segment: Any, memory: Any) -> Any:
    return model(segment, memory, attached=True).memory


def test_the_gradient_of_a_segment_reaches_back_through_attached_memory(model: Any) -> None:
    """The gradient is that of the second segment's loss as a function of the weights."""
    (first, second), start = texts().split([3, 4], dim=1), read(model)

    def loss() -> torch.Tensor:
        memory = attached(model, segment_of(first), start)
        return model(segment_of(second), memory).loss_sum

    parameters = list(model.parameters())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(loss(), parameters), strict=True
    ):
        direction, losses = torch.randn_like(parameter), list[float]()
        with torch.no_grad():
            for step in (1e-6, -2e-6, 1e-6):
                parameter.add_(direction, alpha=step)
                losses.append(float(loss()))
        slope = (losses[0] - losses[1]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_a_document_that_starts_in_a_segment_sees_nothing_before(model: Any) -> None:
    tokens_BT = texts(3, 7)
    starts_BT = torch.tensor([[-1, -1, 2, 2, 2, 5, 5], [0] * 7, [-1] * 7])
    memory = read(model)
    segment = segment_of(tokens_BT, lengths=[7, 7, 3], starts_BT=starts_BT)
    output = model(segment, memory)
    nothing = unread(model, 1)
    documents = [
        (0, 0, 2, rows_of(memory, [0])),
        (0, 2, 5, nothing),
        (0, 5, 7, nothing),
        (1, 0, 7, nothing),
        (2, 0, 3, rows_of(memory, [2])),
    ]
    for row, begin, end, before in documents:
        of = ([row], slice(begin, end))
        alone = model(segment_of(tokens_BT[of], segment.targets_BT[of]), before)
        torch.testing.assert_close(alone.nll_BT, output.nll_BT[of])
        if end in (7, 3):
            torch.testing.assert_close(parts(alone.memory), parts(output.memory, [row]))


def test_it_says_that_it_looks_back_without_end(model: Any) -> None:
    assert reach_of(model, n_layer=3)(5, 2) is None


def test_each_state_keeps_its_dtype_where_the_rest_is_in_16_bits(model: Any) -> None:
    model = model.bfloat16()
    memory = unread(model, 2, torch.bfloat16)
    output = model(segment_of(texts(2)), memory)
    assert output.loss_sum.dtype == output.nll_BT.dtype == torch.float32
    for name, leaf in parts(output.memory).items():
        assert leaf.dtype == parts(memory)[name].dtype
        assert leaf.isfinite().all()


def test_states_look_alike_under_autocast(model: Any) -> None:
    model = model.float()
    exact = model(segment_of(texts(2)), unread(model, 2, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        near = model(segment_of(texts(2)), unread(model, 2, torch.bfloat16))
    assert near.loss_sum.dtype == torch.float32
    assert near.loss_sum.item() == pytest.approx(exact.loss_sum.item(), rel=0.05)


def test_what_says_that_it_is_static_waits_for_no_value(model: Any) -> None:
    """On tensors without data, whose values cannot be asked for."""
    if not getattr(model, "is_static", False):
        pytest.skip("it is not")
    segment, memory = segment_of(texts(2)), read(model, 2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        made = {name: torch.empty_like(leaf) for name, leaf in parts(memory).items()}
        output = model(segment.map(torch.empty_like), rebuilt(memory, made))
        sum([output.loss_sum, *(output.extra or {}).values()]).backward()
