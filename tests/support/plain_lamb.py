"""LAMB's formulas in fp64, on the whole matrices of the authors' model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.999), 1e-6


class PaperLamb:
    """The formulas on whole matrices in fp64, each a list of the parameters that make it up."""

    def __init__(self, parts: list[list[nn.Parameter]], *, weight_decay: float) -> None:
        self.parts, self.weight_decay = parts, weight_decay
        self.param_groups = [{"lr": 0.0}]
        self.moments = [(0.0 * w, 0.0 * w) for w in map(whole, parts)]

    def step(self) -> None:
        lr, (b1, b2) = self.param_groups[0]["lr"], BETAS
        for i, parts in enumerate(self.parts):
            w, g = whole(parts), whole([p.grad for p in parts if p.grad is not None])
            m, v = self.moments[i]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.moments[i] = m, v
            u = m / (v.sqrt() + EPS) + self.weight_decay * w
            weight_norm, norm = min(float(w.norm()), 10.0), float(u.norm())
            trust = weight_norm / (norm + EPS) if weight_norm > 0 and norm > 0 else 1.0
            new = torch.split(w - lr * trust * u, [p.numel() for p in parts])
            for p, values in zip(parts, new, strict=True):
                p.data.copy_(values.view_as(p))


def whole(parts: Sequence[Tensor]) -> Tensor:
    """Return the elements of all parts, `[N]` in fp64."""
    return torch.cat([p.detach().flatten() for p in parts]).double()


def parts_of(model: nn.Module) -> list[list[nn.Parameter]]:
    """Return the parameters of every matrix of the authors' model with one width of embeddings."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        head, _, leaf = name.rpartition(".")
        named = head if head in ("embedding.tables", "softmax.biases") else name
        if head.endswith((".query", ".key_value")):
            named = f"{head.rpartition('.')[0]}.qkv.{leaf}"
        parts.setdefault(named, []).append(p)
    return list(parts.values())
