"""Adam's step in one kernel is PyTorch's, and writes the copies of the new weights.

On a GPU the kernel is compiled; without one Triton's interpreter runs it.
"""

import pytest
import torch
from torch import Tensor, nn
from triton_device import DEVICE, importing_kernels

from trainer.engine.optimizers.adam import Adam
from trainer.model.triton.copies import Copies, computed

with importing_kernels():
    import trainer.engine.optimizers.adam_kernel

pytestmark = pytest.mark.usefixtures("interpreted")


#: More than a chunk, less than one, and one element.
SHAPES = ((3, 700), (5, 7), (1,))


def adams(**settings: float | bool) -> list[tuple[Adam, list[nn.Parameter]]]:
    """Return an Adam with copies of its first two parameters, and one without, of equal weights."""
    made = []
    for has_copies in (True, False):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in SHAPES]
        adam = Adam(weights, lr=0.01, fused=True, betas=(0.9, 0.99), **settings)  # type: ignore[arg-type]
        if has_copies:
            for weight in weights:
                moments = {key: torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}
                adam.state[weight] = moments | {"step": torch.zeros((), device=DEVICE)}
            Copies(weights[:2], torch.float16)
            adam.write_copies()
        made.append((adam, weights))
    return made


def step(
    adam: Adam, weights: list[nn.Parameter], *, seed: int, scale: float | None, skips: bool = False
) -> None:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, device=DEVICE, generator=generator)
    adam.grad_scale = None if scale is None else torch.tensor(scale, device=DEVICE)
    adam.found_inf = torch.tensor(float(skips), device=DEVICE)
    adam.step()


def state_of(adam: Adam, weights: list[nn.Parameter]) -> list[Tensor]:
    state = [adam.state[w][key] for w in weights for key in ("exp_avg", "exp_avg_sq", "step")]
    return [x.detach().clone() for x in (*weights, *state)]


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_steps_equal_those_of_pytorch_and_copies_the_weights(
    decoupled: bool, weight_decay: float, scale: float | None
) -> None:
    settings = {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled}
    (ours, weights), (theirs, others) = adams(**settings)
    before = state_of(ours, weights)
    for seed in range(3):
        step(ours, weights, seed=seed, scale=scale)
        step(theirs, others, seed=seed, scale=scale)
        gradients = [w.grad for w in weights]
    torch.testing.assert_close(state_of(ours, weights), state_of(theirs, others))
    assert not torch.equal(weights[2], before[2])
    for weight in weights[:2]:
        assert torch.equal(computed(weight), weight.half())
    assert computed(weights[2]) is weights[2]
    assert [w.grad for w in weights] == gradients


def test_what_is_not_finite_changes_nothing_and_does_not_count() -> None:
    (adam, weights), _ = adams()
    step(adam, weights, seed=0, scale=None)
    before, copies = state_of(adam, weights), [computed(w).clone() for w in weights]
    step(adam, weights, seed=1, scale=None, skips=True)
    assert all(map(torch.equal, state_of(adam, weights), before))
    assert all(map(torch.equal, map(computed, weights), copies))
    step(adam, weights, seed=1, scale=None)
    assert not torch.equal(weights[0], before[0])


def test_gradients_and_moments_may_move_or_be_absent() -> None:
    (ours, weights), (theirs, others) = adams()
    for seed in range(3):
        for adam, parameters in ((ours, weights), (theirs, others)):
            generator = torch.Generator(DEVICE).manual_seed(seed)
            for place, p in enumerate(parameters):
                shape = p.shape[::-1]
                grad = torch.randn(shape, device=DEVICE, generator=generator).permute(
                    *range(p.dim())[::-1]
                )
                # Of another layout, which PyTorch's kernel for CPUs does not take.
                p.grad = grad if adam is ours else grad.contiguous()
                if place == seed:
                    p.grad = None
            adam.step()
        moved = ours.state[weights[1]]
        moved["exp_avg"] = moved["exp_avg"].clone()
    torch.testing.assert_close(weights, others)


def test_gradients_of_another_layout_may_come_where_others_were() -> None:
    (ours, weights), (theirs, others) = adams()
    place = torch.empty(SHAPES[0][::-1], device=DEVICE)
    for seed in range(3):
        place.copy_(torch.randn(place.shape, generator=torch.Generator().manual_seed(seed)))
        weights[0].grad, others[0].grad = place.T, place.T.contiguous()
        ours.step()
        theirs.step()
    torch.testing.assert_close(weights, others)


def test_a_parameter_of_another_layout_is_refused() -> None:
    tensors = trainer.engine.optimizers.adam_kernel.Tensors(
        *[torch.ones(3, 2, device=DEVICE).T] * 5, None
    )
    with pytest.raises(AssertionError, match="side by side"):
        trainer.engine.optimizers.adam_kernel.Places([tensors])
