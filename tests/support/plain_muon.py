"""Muon's formulas in fp64, a matrix at a time."""

import torch
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.999), 1e-8


def orthogonal(matrix: Tensor) -> Tensor:
    """Return what the published polynomial makes of a matrix's singular values, by their SVD."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


class PlainMuon:
    """The formulas in fp64, a matrix at a time; what is no matrix is PyTorch's AdamW's."""

    def __init__(self, parameters: dict[str, nn.Parameter], cuts: dict[str, int], *, decay: float):
        """Take parameters, and of how many matrices those are that are of any."""
        self.cuts, self.decay = {parameters[name]: n for name, n in cuts.items()}, decay
        self.momenta = {p: torch.zeros(p.shape).double() for p in self.cuts}
        others = [p for p in parameters.values() if p not in self.cuts]
        others.append(nn.Parameter(torch.zeros(0)))  # PyTorch refuses an empty list
        self.adam = torch.optim.AdamW(others, betas=BETAS, eps=EPS, weight_decay=decay)
        self.param_groups = self.adam.param_groups

    def step(self) -> None:
        self.adam.step()
        lr = self.param_groups[0]["lr"]
        for p, n in self.cuts.items():
            assert p.grad is not None
            grad, momentum = p.grad.double(), self.momenta[p]
            momentum.copy_(0.9 * momentum + 0.1 * grad)
            ahead = (0.9 * momentum + 0.1 * grad).chunk(n)
            factor = 0.2 * max(ahead[0].shape) ** 0.5
            u = torch.cat([factor * orthogonal(part) for part in ahead])
            w = p.detach().double()
            p.data.copy_(w - lr * (u + self.decay * w))
