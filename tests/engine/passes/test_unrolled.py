"""Several segments read in one pass have the losses and the gradient of one long segment."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, empty, segment_of, tiny_model, tiny_model_config
from linear_attention_model import Detaching, LinearAttention
from readme_model import write_readme_model
from torch import Tensor, nn

from trainer.engine.passes.unrolled import Unrolled
from trainer.engine.passes.usual import How, Passes
from trainer.errors import InputError
from trainer.memory_tree import leaves
from trainer.protocol import IGNORED, Output, Segment

V, B, K, T = 20, 3, 4, 5


def texts(*, short: int = 0) -> tuple[Segment, list[Segment]]:
    """Return a text in one segment, and in K; its last row lacks its last `short` tokens."""
    tokens_BX = torch.randint(V, (B, K * T + 1), generator=torch.Generator().manual_seed(1))
    targets_BX = tokens_BX[:, 1:].clone()
    lengths = [K * T] * (B - 1) + [K * T - short]
    targets_BX[torch.arange(K * T) >= torch.tensor(lengths)[:, None]] = IGNORED
    parts = [
        segment_of(
            tokens_BX[:, i : i + T],
            targets_BX[:, i : i + T],
            lengths=[min(T, n - i) for n in lengths],
        )
        for i in range(0, K * T, T)
    ]
    return segment_of(tokens_BX[:, :-1], targets_BX, lengths=lengths), parts


def graded(model: nn.Module, output: Output) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the nats of each token, and the gradients by parameter."""
    model.zero_grad()
    output.loss_sum.backward()  # type: ignore[no-untyped-call]
    assert output.nll_BT is not None
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.nll_BT, gradients


def lstm(folder: Path) -> Any:
    """Return the README's LSTM in fp64."""
    spec = importlib.util.spec_from_file_location("lstm", write_readme_model(folder))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.LSTM(module.Options(width=8), V).double()


def built(name: str, folder: Path) -> Any:
    if name == "lstm":
        return lstm(folder)
    if name == "matrices":
        torch.manual_seed(0)
        return LinearAttention(tiny_model_config(), V).double()
    return tiny_model(V, **{"plain": {"kernels": "plain"}, "pre": {"norm": "pre"}}.get(name, {}))


@pytest.mark.parametrize("short", [0, 3])
@pytest.mark.parametrize("name", ["transformer-xl", "plain", "pre", "lstm", "matrices"])
def test_losses_and_gradient_are_those_of_one_long_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, short: int
) -> None:
    """Transformer-XL's memory has place for all of the text here."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # models that ask for fp32
    model = built(name, tmp_path)
    memory = model.empty_memory(B, mem_len=(K + 1) * T, dtype=torch.float64, device=CPU)
    with torch.no_grad():  # the text before is read without a gradient
        memory = model(segment_of(torch.arange(B * T).view(B, T) % V), memory).memory
    whole, (first, *more) = texts(short=short)
    unrolled = Unrolled(model)
    nll_BT, gradients = graded(model, unrolled(first, memory, more=tuple(more)))
    expected_BT, expected = graded(model, model(whole, memory))
    torch.testing.assert_close(nll_BT, expected_BT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)
    alone = sum(g.norm() for g in of_each_alone(model, memory, [first, *more]).values())
    assert abs(float(sum(g.norm() for g in gradients.values()) / alone) - 1) > 1e-3


def of_each_alone(model: Any, memory: Any, segments: list[Segment]) -> dict[str, Tensor]:
    """Return the gradient that ends at the segment's start: that of k steps of one segment."""
    model.zero_grad()
    for segment in segments:
        output = model(segment, memory)
        memory = output.memory
        output.loss_sum.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_with_a_memory_shorter_than_the_text_each_token_sees_as_far_as_it_would() -> None:
    model = tiny_model(V)
    whole, (first, *more) = texts()
    lengths: dict[str, Any] = {"same_length": True, "clamp_len": 3}
    memory = empty(model, B, 7)
    nll_BT, gradients = graded(model, Unrolled(model)(first, memory, more=tuple(more), **lengths))
    expected_BT, expected = graded(model, model(whole, memory, **lengths))
    torch.testing.assert_close(nll_BT, expected_BT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)


def test_layers_computed_again_change_no_gradient() -> None:
    """The positions that memory keeps of a layer are attached to what is computed again."""
    _, (first, *more) = texts()
    found = []
    for again in (False, True):
        model = tiny_model(V, activation_checkpointing=again, dropout=0.3)
        torch.manual_seed(1)
        found.append(graded(model, Unrolled(model)(first, empty(model, B, 7), more=tuple(more))))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_memory_is_detached_and_losses_are_those_of_the_segments_one_by_one() -> None:
    model = tiny_model(V)
    _, segments = texts()
    output = Unrolled(model)(segments[0], empty(model, B, 7), more=tuple(segments[1:]))
    memory, nats = empty(model, B, 7), []
    for segment in segments:
        alone = model(segment, memory)
        memory = alone.memory
        nats.append(alone.nll_BT)
    assert output.nll_BT.equal(torch.cat(nats, dim=1))
    for (name, one), (_, other) in zip(leaves(output.memory), leaves(memory), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)), name
        assert not (isinstance(one, Tensor) and one.requires_grad)


def test_with_nothing_carried_every_segment_is_read_with_the_memory_before_all() -> None:
    model = tiny_model(V)
    _, segments = texts()
    memory = empty(model, B, 7)
    output = Unrolled(model)(segments[0], memory, more=tuple(segments[1:]), carries=False)
    alone = [model(segment, memory).nll_BT for segment in segments]
    assert output.nll_BT.equal(torch.cat(alone, dim=1))


class Lent(Unrolled):
    """What passes ask of an engine, without one."""

    def backward(self, loss: Tensor) -> None:
        """Add gradients."""
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("forgets", [False, True])
def test_the_passes_of_a_step_carry_memory_unless_they_are_to_forget(forgets: bool) -> None:
    model = tiny_model(V)
    engine: Any = Lent(model)
    _, segments = texts()
    memory = before = empty(model, B, 7)
    passes = Passes(engine, asks=True, forgets=forgets)
    passed = passes(tuple(segments), memory, How(1.0, None, same_length=False, mem_len=7))
    nats = []
    for segment in segments:
        alone = model(segment, before)
        before = memory if forgets else alone.memory
        nats.append(alone.nll_BT)
    torch.testing.assert_close(passed.nats_B, torch.cat(nats, dim=1).sum(1), rtol=1e-12, atol=0)


def test_a_model_that_detaches_all_the_same_is_refused() -> None:
    model = Detaching(tiny_model_config(), V)
    memory = model.empty_memory(B, mem_len=0, dtype=torch.float32, device=CPU)
    _, (first, *more) = texts()
    unrolled = Unrolled(model)
    unrolled(first, memory)
    with pytest.raises(InputError, match=r"detached.*let forward.*or use --train.bptt-segments 1"):
        unrolled(first, memory, more=tuple(more))


def test_a_memory_of_nothing_carries_no_gradient() -> None:
    model = tiny_model(V)
    _, (first, *more) = texts()
    output = Unrolled(model)(first, empty(model, B, 0), more=tuple(more))
    assert output.nll_BT.shape == (B, K * T)


def test_a_model_without_the_argument_is_refused() -> None:
    class Narrow(nn.Module):
        def forward(self, segment: Segment, memory: Any, *, clamp_len: int | None = None) -> None:
            """Compute nothing."""

    with pytest.raises(InputError, match=r"Narrow\.forward takes no `attached`"):
        Unrolled(Narrow())


class WithExtra(LinearAttention):
    """A model whose extra loss is a number of its own in each segment."""

    def forward(self, segment: Segment, memory: Any, **lengths: Any) -> Output:
        output = super().forward(segment, memory, **lengths)
        size = self.softmax.bias.square().sum() * int(segment.tokens_BT[0, 0])
        return output._replace(extra={"size": size}, nll_BT=None)


def test_extra_losses_are_summed_and_nats_without_rows_stay_a_sum() -> None:
    model = WithExtra(tiny_model_config(), V)
    memory = model.empty_memory(B, mem_len=0, dtype=torch.float32, device=CPU)
    _, segments = texts()
    output = Unrolled(model)(segments[0], memory, more=tuple(segments[1:]))
    expected = sum(float(s.tokens_BT[0, 0]) for s in segments) * model.softmax.bias.square().sum()
    torch.testing.assert_close(output.extra["size"], expected)
    assert output.nll_BT is None
