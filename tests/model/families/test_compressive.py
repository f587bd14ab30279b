"""A Compressive Transformer is Transformer-XL whose layers also see what they have compressed."""

import math
from typing import Any

import pytest
import torch
from builders import CPU, segment_of
from family_models import TOY, V, toy

from trainer.config.recipe import ModelConfig
from trainer.errors import InputError
from trainer.memory_tree import leaves
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Segment

#: Inputs that make one compressed position, and compressed positions, of the toy.
RATE, COMPRESSED = TOY["compressive"]["rate"], TOY["compressive"]["compressed_len"]


def empty(model: Any, mem_len: int, n_streams: int = 2) -> Any:
    return model.empty_memory(n_streams, mem_len=mem_len, dtype=torch.float64, device=CPU)


def texts(n_tokens: int) -> torch.Tensor:
    return torch.randint(V, (2, n_tokens + 1), generator=torch.Generator().manual_seed(3))


def segments(*lengths: int) -> list[Segment]:
    """Return a text cut into segments of these lengths."""
    tokens_BN, begin, found = texts(sum(lengths)), 0, []
    for length in lengths:
        end = begin + length
        found.append(segment_of(tokens_BN[:, begin:end], tokens_BN[:, begin + 1 : end + 1]))
        begin = end
    return found


def read(model: Any, mem_len: int, *lengths: int) -> tuple[torch.Tensor, Any]:
    """Return the nats of a text read in these segments, and the memory after it."""
    memory, nats = empty(model, mem_len), []
    for segment in segments(*lengths):
        output = model(segment, memory)
        memory = output.memory
        nats.append(output.nll_BT)
    return torch.cat(nats, dim=1), memory


def test_where_nothing_is_compressed_it_is_transformer_xl() -> None:
    model = toy("compressive")
    sizes = {k: v for k, v in TOY["compressive"].items() if k not in ("rate", "compressed_len")}
    config = ModelConfig(**sizes, norm="pre", dropout=0.0)
    plain = TransformerXL(config, V).double()
    missing, more = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert all(name.startswith("compressions.") for name in more)
    expected = read(plain, 9, 3, 4, 2)[0]
    torch.testing.assert_close(read(model, 9, 3, 4, 2)[0], expected)
    torch.testing.assert_close(read(model, 9, 1, 1, 7)[0], expected)


def test_what_is_compressed_does_not_depend_on_where_segments_end() -> None:
    """Of the first layer: those above see other keys in other segments, as Transformer-XL's do."""
    model = toy("compressive")
    memories = [read(model, 2, *lengths)[1] for lengths in ((13,), (1, 5, 7), (4, 4, 5))]
    for memory in memories[1:]:
        assert torch.equal(memory.valid_B, memories[0].valid_B)
        torch.testing.assert_close(memory.layers[0], memories[0].layers[0])


def test_a_segment_sees_what_is_compressed() -> None:
    model = toy("compressive")
    *before, last = segments(3, 3, 3, 2)
    memory = empty(model, 0)
    for segment in before:
        memory = model(segment, memory).memory
    assert memory.valid_B.tolist() == [COMPRESSED] * 2
    seen = model(last, memory).nll_BT
    oldest = memory.mem_len - COMPRESSED
    for layer_BKD in memory.layers:
        layer_BKD[:, oldest] *= -1
    assert not torch.isclose(model(last, memory).nll_BT, seen).any()


def test_how_far_back_it_looks() -> None:
    model = toy("compressive")
    assert model.reach(4, RATE + 1) is None
    n_back = model.reach(4, RATE)
    assert n_back == 2 * math.ceil((4 + RATE - 1 + COMPRESSED * RATE) / RATE)
    lengths = [RATE] * (n_back + 4)
    whole = read(model, 4, *lengths)[0][:, -RATE:]
    memory = empty(model, 4)
    for segment in segments(*lengths)[3:]:
        output = model(segment, memory)
        memory = output.memory
    torch.testing.assert_close(output.nll_BT, whole)


@torch.no_grad()
def naive_loss(model: Any, mem_len: int, first: Segment, second: Segment) -> float:
    """Return the reconstruction loss of a second segment: row by row, token by token."""
    memory = model(first, empty(model, mem_len)).memory
    hidden: list[list[torch.Tensor]] = [[], []]
    for layer, into in zip(model.layers, hidden, strict=True):
        layer.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0]))
    model(second, memory)
    total = 0.0
    for layer, compression, old_BKD, (x_BTD,) in zip(
        model.layers, model.compressions, memory.layers, hidden, strict=True
    ):
        attention = layer.attention
        for row in range(2):
            n_inputs, n_read = int(memory.inputs_B[row]), int(second.lengths_B[row])
            kept = [*old_BKD[row, old_BKD.shape[1] - n_inputs :], *x_BTD[row, :n_read]]
            n_blocks = max(0, len(kept) - mem_len) // RATE
            blocks = [kept[i * RATE : (i + 1) * RATE] for i in range(n_blocks)]
            made = [compression.weight @ torch.cat(block) + compression.bias for block in blocks]
            old = [x for block in blocks for x in block]
            for x in x_BTD[row, :n_read] if blocks else []:
                query = attention.query(attention.norm(x)).unflatten(0, (2, -1))
                answers = []
                for keys in (made, old):
                    kv = [attention.key_value(attention.norm(key)) for key in keys]
                    k, v = torch.stack(kv).unflatten(1, (2, 2, -1)).unbind(1)
                    score = (k * query).sum(dim=-1) / math.sqrt(query.shape[-1])
                    answers.append((score.softmax(dim=0)[..., None] * v).sum(dim=0))
                total += float((answers[0] - answers[1]).square().mean())
    return total


@pytest.mark.parametrize("lengths", [[5, 5], [5, 2], [0, 5]])
def test_its_loss_is_what_attention_does_not_find_again(lengths: list[int]) -> None:
    model = toy("compressive").train()
    first, second = segments(4, 5)
    second = segment_of(second.tokens_BT, second.targets_BT, lengths=lengths)
    memory = model(first, empty(model, 3)).memory
    extra = model(second, memory).extra
    assert extra.keys() == {"compression"}
    assert extra["compression"].item() == pytest.approx(naive_loss(model, 3, first, second))
    assert model.eval()(second, memory).extra is None


def gradients(model: Any, loss: torch.Tensor) -> dict[str, bool]:
    """Return which parameters a loss has a gradient of."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in model.named_parameters()}


def test_its_loss_teaches_the_compression_alone_and_nats_all_the_rest() -> None:
    model = toy("compressive").train()
    first, second = segments(4, 5)
    memory = model(first, empty(model, 3)).memory
    output = model(second, memory)
    taught = gradients(model, output.extra["compression"])
    assert taught == {name: name.startswith("compressions.") for name in taught}
    by_nats = gradients(model, model(second, memory).loss_sum)
    assert not any(by_nats[name] for name in by_nats if name.startswith("compressions."))


def test_nats_teach_the_compression_through_segments_of_one_step() -> None:
    model = toy("compressive").train()
    memory = empty(model, 0)
    for segment in segments(4, 5, 3):
        output = model(segment, memory, attached=True)
        memory = output.memory
    taught = gradients(model, output.loss_sum)
    assert all(taught[name] for name in taught if name.startswith("compressions."))


def test_its_weights_learn_to_keep_what_is_asked_for() -> None:
    model = toy("compressive").train()
    first, second = segments(6, 9)
    memory = model(first, empty(model, 0)).memory
    optimizer = torch.optim.Adam(model.compressions.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(second, memory).extra["compression"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_same_length_is_refused() -> None:
    model = toy("compressive")
    with pytest.raises(InputError, match="same_length is not for a Compressive Transformer"):
        model(segments(3)[0], empty(model, 3), same_length=True)


def test_memory_of_another_length_goes_on() -> None:
    model = toy("compressive")
    memory = read(model, 4, 5, 5)[1]
    for mem_len in (6, 1):
        other = model.resized_memory(memory, mem_len=mem_len)
        like = empty(model, mem_len)
        assert [p.shape for _, p in leaves(other)] == [p.shape for _, p in leaves(like)]
        assert model(segments(4)[0], other).nll_BT.isfinite().all()
