"""Gated linear attention in chunks is the recurrence of the paper, however fast memory decays."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from builders import segment_of
from chunked import B, H, chunks, random_rows, steps
from family_models import TOY, V, toy, unread
from torch import Tensor
from training import ROOT

from trainer.config.recipe import ModelConfig
from trainer.model.build import build_model
from trainer.model.families.blocks import in_chunks
from trainer.model.families.gla import attend

K, E = 4, 3


def naive(rows: list[Tensor], state: Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Return the outputs and the states, token by token: equation 3 of the paper."""
    output, state = torch.zeros_like(rows[2]), state.clone()
    for b, t, is_new, (q_HK, k_HK, v_HE, decay_HK) in steps(*rows, whole=whole):
        before = torch.zeros_like(state[b]) if is_new else state[b]
        state[b] = decay_HK.exp()[..., None] * before + k_HK[..., None] * v_HE[:, None]
        output[b, :, t] = (q_HK[:, None] @ state[b])[:, 0]
    return output, state


def random_case(decay: float) -> tuple[list[Tensor], Tensor]:
    q, k, v, gate = random_rows(K, K, E, K)
    state = torch.randn(B, H, K, E, generator=torch.Generator().manual_seed(3)).double()
    return [q, k, v, -decay * gate.exp()], state


@pytest.mark.parametrize("size", [1, 3, 4, 16])
@pytest.mark.parametrize("decay", [0.0, 0.1, 300.0])
def test_chunks_are_the_recurrence(size: int, decay: float) -> None:
    rows, state = random_case(decay)
    for whole in (True, False):
        expected, after = naive(rows, state, whole=whole)
        found, left = in_chunks(attend, rows, chunks(size, whole=whole), state)
        is_real = expected != 0
        torch.testing.assert_close(found.where(is_real, 0.0), expected)
        torch.testing.assert_close(left, after)


@pytest.mark.parametrize("decay", [0.1, 300.0])
def test_gradients_are_those_of_the_recurrence(decay: float) -> None:
    rows, state = random_case(decay)
    leaves = [x.requires_grad_() for x in (*rows, state)]
    weights = torch.randn_like(rows[2])
    gradients = []
    for output, after in (
        naive_attached(rows, state),
        in_chunks(attend, rows, chunks(4, whole=True), state),
    ):
        loss = (output * weights).sum() + after.square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(gradients[1], gradients[0])


def naive_attached(rows: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for q, k, v, decay in zip(*(row.unbind(2) for row in rows), strict=True):
        state = decay.exp()[..., None] * state + k[..., None] * v[:, :, None]
        outputs.append((q[:, :, None] @ state)[:, :, 0])
    return torch.stack(outputs, dim=2), state


def test_the_readme_s_fused_kernels_take_the_place_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is not here: the recurrence that its operation computes stands for it."""

    def chunk_gla(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        *,
        scale: float,
        initial_state: Tensor,
        output_final_state: bool,
    ) -> tuple[Tensor, Tensor]:
        assert output_final_state
        rows = [x.transpose(1, 2) for x in (q * scale, k, v, g)]
        found, state = naive_attached(rows, initial_state)
        return found.transpose(1, 2), state

    fla = ModuleType("fla.ops.gla")
    fla.chunk_gla = chunk_gla  # type: ignore[attr-defined]
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "fla.ops.gla", fla)
    readme = (ROOT / "trainer" / "README.md").read_text().partition("**Fused kernels.**")[2]
    code = readme.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "fla_gla.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    ours = toy("gla")
    config = ModelConfig(factory="fla_gla:build", options=TOY["gla"], dropout=0.0)
    theirs: Any = build_model(config, vocabulary_size=V, seed=0).double()
    theirs.load_state_dict(ours.state_dict())
    segment = segment_of(torch.randint(V, (3, 7)), lengths=[7, 0, 4])
    memory = ours(segment_of(torch.randint(V, (3, 5))), unread(ours, 3)).memory
    found, expected = (model(segment, memory) for model in (theirs, ours))
    torch.testing.assert_close(found.nll_BT, expected.nll_BT)
    torch.testing.assert_close(found.memory, expected.memory)


def test_nothing_overflows_in_fp32() -> None:
    rows, state = random_case(3000.0)
    narrow = [x.float().requires_grad_() for x in rows]
    output, after = in_chunks(attend, narrow, chunks(16), state.float())
    for gradient in torch.autograd.grad(output.sum() + after.sum(), narrow):
        assert gradient.isfinite().all()
    torch.testing.assert_close(after.double(), naive(rows, state)[1], rtol=1e-4, atol=1e-5)
