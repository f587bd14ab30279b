"""The bytes that each rank holds of a model for training, and sends, as ZeRO shares it out.

The numbers are exact for the tensors named here: DeepSpeed 0.19.8's own, and ours at stage 0. Each
rank is counted as the one that holds most. N parameters · W ranks · w bytes of a weight.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from torch import nn

from trainer.budget.activations import Widths
from trainer.budget.sizes import How
from trainer.config.experiment import OptimConfig
from trainer.model.matrices import Matrices, matrices

#: DeepSpeed's defaults of keys of ``zero_optimization``.
_PERSISTENT, _NEAR, _AHEAD = 100_000, 1_000_000_000, 50_000_000


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes of one rank, of tensors that last or that a whole backward pass leaves."""

    weights: int
    """At stage 3 the rank's part of all, with `kept_whole`."""
    kept_whole: int
    """Weights so small that every rank keeps them whole at stage 3, beside its part of them."""
    gradients: int
    """After the last backward pass of a step, before the update."""
    optimizer: int
    """Adam's two moments in fp32 and, at stages 1 to 3, its own fp32 weights."""
    buckets: int
    """DeepSpeed's buffers, each of ``reduce_bucket_size`` elements; at stages 1 and 2 only for a
    while."""
    on_host: int
    """The moments and weights of an offloaded optimizer, which a GPU does not hold."""

    @property
    def sum(self) -> int:
        """Return what the rank's device holds, without the buckets."""
        return self.weights + self.gradients + self.optimizer


class Sent(NamedTuple):
    """Bytes that each rank sends in a step, by the best algorithm there is, a ring."""

    gradients: float
    weights: float
    """Updated weights at stages 1 and 2; at stage 3 weights before they are used."""
    matrices: float = 0.0
    """The layers' matrices in fp32, as Muon brings them together."""

    @property
    def sum(self) -> float:
        """Return the bytes of all messages but flags and norms, of a number each."""
        return self.gradients + self.weights + self.matrices


def held(numels: Sequence[int], how: How, zero: Mapping[str, Any], *, n_multiplied: int) -> Held:
    """Return what a rank holds.

    Args:
        numels: elements of each parameter, in the model's order.
        how: how the model is trained.
        zero: the section ``zero_optimization`` of the completed DeepSpeed file.
        n_multiplied: elements of which a GPU's kernels have copies in 16 bits.
    """
    total, width = sum(numels), Widths.of(how.precision).weight
    share = -(-total // how.world_size)
    kept = _kept_whole(numels, zero) if how.stage == 3 and how.world_size > 1 else 0
    n_weights = total if how.stage < 3 else share + kept
    copied = 2 * n_multiplied if how.keeps_copies else 0
    states = 8 * total if how.stage == 0 else 12 * share
    is_away = how.offload and how.on_gpu
    n_buffers = (2 if zero.get("overlap_comm") else 1) if how.stage > 0 else 0
    return Held(
        weights=n_weights * width + copied,
        kept_whole=kept * width,
        gradients=_gradients(numels, how) * width,
        optimizer=0 if is_away else states,
        buckets=n_buffers * how.bucket * width,
        on_host=states if is_away else 0,
    )


def _gradients(numels: Sequence[int], how: How) -> int:
    """Return the elements of gradients on the rank that has most of them."""
    total = sum(numels)
    if how.stage == 0 or how.keeps_gradients:
        return total
    if how.stage == 3:
        return -(-total // how.world_size)
    return max(_of_partitions(numels, how.world_size))


def _of_partitions(numels: Sequence[int], world_size: int) -> Iterator[int]:
    """Yield per rank the elements of all parameters of which the rank owns a part.

    DeepSpeed cuts the parameters, one behind the other, into a part per rank; of a parameter at a
    border both ranks hold the whole gradient.
    """
    ends = list(accumulate(numels))
    size = -(-ends[-1] // world_size)
    for rank in range(world_size):
        low, high = rank * size, (rank + 1) * size
        yield sum(n for n, end in zip(numels, ends, strict=True) if end > low and end - n < high)


def _kept_whole(numels: Sequence[int], zero: Mapping[str, Any]) -> int:
    """Return the elements of the parameters that every rank keeps whole at stage 3."""
    threshold = zero.get("stage3_param_persistence_threshold", _PERSISTENT)
    return sum(n for n in numels if n <= threshold)


def sent(
    numels: Sequence[int],
    how: How,
    zero: Mapping[str, Any],
    *,
    together: Iterable[Matrices] = (),
) -> Sent:
    """Return what each rank sends in a step.

    An all-reduce sends 2(W-1)/W of its data, any other collective (W-1)/W. At stage 3 a model of
    more weights than ``stage3_max_reuse_distance`` sends at least what is returned.

    Args:
        numels: see `held`.
        how: likewise.
        zero: likewise.
        together: matrices that the optimizer brings together.
    """
    n_together = sum(parameter.numel for parameter in together)
    share = (how.world_size - 1) / how.world_size
    return _sent(numels, how, zero)._replace(matrices=2 * share * 4 * n_together)


def brought_together(optim: OptimConfig, model: nn.Module) -> list[Matrices]:
    """Return the matrices of `model` that the optimizer brings together in a step."""
    return list(matrices(model).values()) if optim.type == "Muon" else []


def _sent(numels: Sequence[int], how: How, zero: Mapping[str, Any]) -> Sent:
    """Return what is sent whatever the optimizer."""
    total, width = sum(numels), Widths.of(how.precision).weight
    once = (how.world_size - 1) / how.world_size * width
    if how.stage == 0:
        return Sent(2 * once * total, 0.0)
    passes = how.slots if how.stage > 1 or not how.keeps_gradients else 1
    if how.stage < 3:
        to_all = 2 if zero.get("use_multi_rank_bucket_allreduce", True) else 1
        return Sent(passes * to_all * once * total, once * total)
    kept = _kept_whole(numels, zero)
    # What is not used again soon, nor fetched ahead, is gathered at least once more.
    near = zero.get("stage3_max_reuse_distance", _NEAR)
    ahead = zero.get("stage3_prefetch_bucket_size", _AHEAD)
    n_gathered = 2 if total - kept > max(near, ahead) else 1
    weights = kept + how.slots * n_gathered * (total - kept)
    return Sent(passes * once * total, once * weights)
