"""Muon (Jordan et al. 2024): the momentum of a matrix is made orthogonal before it is a step.

The step of a matrix w, `[rows, columns]`, with gradients g and momentum m = b1·m + (1 - b1)·g is

    u = orthogonal(b1·m + (1 - b1)·g)                       (Nesterov's look ahead)
    w -= lr·(0.2·√max(rows, columns)·u + weight_decay·w)

`orthogonal` turns a matrix U·S·Vᵀ into about U·Vᵀ, see `orthogonalised`. The factor gives a step
the size of Adam's, and so Adam's rates are right for both (Liu et al. 2025, arXiv 2502.16982,
section 2.2). All that is not such a matrix takes AdamW's step. See `matrices` for which is which.

A matrix must be whole to be made orthogonal, but ZeRO gives the optimizer flat tensors with
fragments, cut anywhere between ranks. So each rank writes its fragments into zeros, and the sum
over ranks is the whole. At stage 0, where all ranks have all, each makes its share orthogonal, and
the sum over ranks is all of them: so ranks cannot drift apart. Matrices of one size are computed
together, in batches that bound the memory: a batch is summed once.

N elements · R rows · C columns · X matrices of a batch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.engine.full_state import Fragment
from trainer.model.matrices import N_QUINTICS, Batch, Matrices, batches_of

#: Weights of the quintic polynomial (Jordan et al. 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
#: The root mean square of Adam's steps (Liu et al. 2025).
_RMS = 0.2


class Piece(NamedTuple):
    """A fragment in one of the optimizer's tensors, and its place in a batch's buffer."""

    flat: Tensor
    start: int
    numel: int
    at: int

    def of(self, tensor: Tensor) -> Tensor:
        """Return the elements, `[N]`, of a tensor that has the places of `flat`."""
        return tensor.view(-1).narrow(0, self.start, self.numel)


class Muon(torch.optim.Optimizer):
    """Muon with moments named as Adam's; `cut` must be called before the first step."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        """Make an optimizer that multiplies matrices in `dtype`; the rest is as Adam's."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._dtype = dtype
        self._batches: list[tuple[Batch, list[Piece]]] = []
        self._others: list[Piece] = []
        self._sum_over_ranks: Callable[[Tensor], Any] | None = None
        self._share: tuple[int, int] | None = None

    def cut(
        self,
        fragments: Mapping[Tensor, Sequence[Fragment]],
        *,
        matrices: Mapping[str, Matrices],
        sum_over_ranks: Callable[[Tensor], Any] | None,
        share: tuple[int, int] | None = None,
    ) -> None:
        """Set which fragments of which matrices the optimizer's tensors hold.

        Args:
            fragments: the fragments in each tensor of this rank; no step changes what lies between.
            matrices: the parameters that are made of matrices, the same on all ranks.
            sum_over_ranks: sums a tensor over ranks in place; None if there is one rank.
            share: the rank and the number of ranks, if each rank has all of every parameter; None
                if each element is on one rank.
        """
        self._sum_over_ranks, self._share = sum_over_ranks, share
        pieces: dict[str, list[tuple[Tensor, Fragment]]] = {}
        for flat, parts in fragments.items():
            for part in parts:
                pieces.setdefault(part.name, []).append((flat, part))
        self._batches = [
            (
                batch,
                [
                    Piece(flat, part.start, part.numel, place + part.begin)
                    for name, place in batch.places.items()
                    for flat, part in pieces.pop(name, [])
                ],
            )
            for batch in batches_of(matrices)
        ]
        self._others = [
            Piece(flat, part.start, part.numel, 0)
            for found in pieces.values()
            for flat, part in found
        ]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every tensor that has a gradient. Collective, with one sum over ranks per batch.

        Ranks either all have gradients or none.
        """
        for group in self.param_groups:
            flats = [flat for flat in group["params"] if flat.grad is not None]
            if not flats:
                continue
            for flat in flats:
                self._state_of(flat)["step"] += 1
            self._step_as_adam(_in(flats, self._others), group)
            for batch, pieces in self._batches:
                self._step_together(batch, _in(flats, pieces), group)

    def _state_of(self, flat: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[flat]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(flat), torch.zeros_like(flat)
        return state

    def _moments(self, pieces: list[Piece], key: str) -> list[Tensor]:
        return [piece.of(self.state[piece.flat][key]) for piece in pieces]

    def _step_as_adam(self, pieces: list[Piece], group: dict[str, Any]) -> None:
        """Take AdamW's step, by PyTorch's own kernel."""
        if not pieces:
            return
        (beta1, beta2), flats = group["betas"], {piece.flat for piece in pieces}
        numbers = {flat: float(self.state[flat]["step"]) for flat in flats}
        steps = {flat: torch.full((), n, device=flat.device) for flat, n in numbers.items()}
        torch._fused_adamw_(
            [piece.of(piece.flat) for piece in pieces],
            _gradients(pieces),
            self._moments(pieces, "exp_avg"),
            self._moments(pieces, "exp_avg_sq"),
            [],
            [steps[piece.flat] for piece in pieces],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _step_together(self, batch: Batch, pieces: list[Piece], group: dict[str, Any]) -> None:
        """Update the matrices of a batch, of which this rank has these pieces."""
        beta1, lr, like = group["betas"][0], group["lr"], group["params"][0]
        buffer_N = torch.zeros(batch.numel, dtype=like.dtype, device=like.device)
        parts = [buffer_N.narrow(0, piece.at, piece.numel) for piece in pieces]
        if pieces:
            gradients, averages = _gradients(pieces), self._moments(pieces, "exp_avg")
            torch._foreach_lerp_(averages, gradients, 1 - beta1)
            torch._foreach_copy_(parts, torch._foreach_lerp(gradients, averages, beta1))
        self._make_orthogonal(batch, pieces, buffer_N)
        if pieces:
            weights = [piece.of(piece.flat) for piece in pieces]
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
            torch._foreach_add_(weights, parts, alpha=-lr * _RMS * batch.size.longest**0.5)

    def _make_orthogonal(self, batch: Batch, pieces: list[Piece], buffer_N: Tensor) -> None:
        """Bring a batch together, and make it orthogonal as far as this rank needs it."""
        matrices_XRC = buffer_N.view(-1, batch.size.n_rows, batch.size.n_columns)
        if self._share is None:
            self._sum(buffer_N)
            numel = matrices_XRC[0].numel()
            first = min((piece.at // numel for piece in pieces), default=0)
            end = max(((piece.at + piece.numel - 1) // numel + 1 for piece in pieces), default=0)
        else:
            rank, world_size = self._share
            first, end = (len(matrices_XRC) * i // world_size for i in (rank, rank + 1))
        if first < end:
            own_XRC = matrices_XRC[first:end]
            own_XRC.copy_(orthogonalised(own_XRC, dtype=self._dtype))
        if self._share is not None:
            matrices_XRC[:first] = 0
            matrices_XRC[end:] = 0
            self._sum(buffer_N)

    def _sum(self, buffer_N: Tensor) -> None:
        if self._sum_over_ranks is not None:
            self._sum_over_ranks(buffer_N)


def orthogonalised(x_XRC: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Return matrices with the same singular vectors, whose singular values are about 1.

    A matrix is divided by its norm, and then five times the quintic x → a·x + b·x³ + c·x⁵ is taken
    of its singular values: all from 0.0015 of the norm on come between 0.67 and 1.21, and smaller
    ones grow 480 times. A matrix of zeros stays one.

    Args:
        x_XRC: matrices.
        dtype: in which they are multiplied, and returned.
    """
    a, b, c = _QUINTIC
    norm_X11 = torch.linalg.vector_norm(x_XRC, dim=(1, 2), keepdim=True)
    is_tall = x_XRC.shape[1] > x_XRC.shape[2]
    y_XRC = (x_XRC / norm_X11.clamp_min(torch.finfo(norm_X11.dtype).tiny)).to(dtype)
    y_XRC = y_XRC.mT if is_tall else y_XRC
    for _ in range(N_QUINTICS):
        square_XRR = y_XRC @ y_XRC.mT
        sum_XRR = torch.baddbmm(square_XRR, square_XRR, square_XRR, beta=b, alpha=c)
        del square_XRR
        y_XRC = torch.baddbmm(y_XRC, sum_XRR, y_XRC, beta=a)
    u_XRC: Tensor = y_XRC.mT if is_tall else y_XRC
    return u_XRC


def _in(flats: list[Tensor], pieces: list[Piece]) -> list[Piece]:
    """Return the pieces that lie in some tensors."""
    ids = {id(flat) for flat in flats}
    return [piece for piece in pieces if id(piece.flat) in ids]


def _gradients(pieces: list[Piece]) -> list[Tensor]:
    """Return the pieces' gradients, which may lie in another order than weights: then copies."""
    grads = [(piece, piece.flat.grad) for piece in pieces]
    return [piece.of(grad.contiguous()) for piece, grad in grads if grad is not None]
