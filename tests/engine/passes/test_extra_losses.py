"""Names of extra losses are checked and stay; one that is not finite blames all streams."""

from typing import Any

import pytest
import torch

from trainer.engine.passes.extra_losses import ExtraLosses, blamed
from trainer.errors import InputError
from trainer.protocol import Output


def output(**extra: Any) -> Output:
    return Output(torch.tensor(1.0), None, (), extra or None)


ONE = torch.tensor(1.0)


def test_they_come_in_the_order_of_the_first_pass() -> None:
    losses = ExtraLosses()
    assert list(losses.of(output(balance=ONE, z_loss=2 * ONE))) == ["balance", "z_loss"]
    assert list(losses.of(output(z_loss=ONE, balance=ONE))) == ["balance", "z_loss"]


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"Balance": ONE}, "extra loss 'Balance' has no name: use a to z and _"),
        ({"a/b": ONE}, "extra loss 'a/b' has no name"),
        ({"a": 1.0}, "extra loss a is no tensor of one number"),
        ({"a": torch.ones(2)}, "extra loss a is no tensor of one number"),
        ({"a": torch.tensor(1)}, "extra loss a is no tensor of one number"),
    ],
)
def test_what_is_no_loss_with_a_name_is_refused(extra: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ExtraLosses().of(output(**extra))


@pytest.mark.parametrize("later", [{}, {"a": ONE}, {"a": ONE, "c": ONE}])
def test_names_do_not_change(later: dict[str, Any]) -> None:
    losses = ExtraLosses()
    losses.of(output(a=ONE, b=ONE))
    with pytest.raises(InputError, match=r"were a, b and are .*return the same names in every"):
        losses.of(output(**later))


def test_no_losses_stay_none() -> None:
    losses = ExtraLosses()
    assert losses.of(output()) == {}
    with pytest.raises(InputError, match="were none and are a"):
        losses.of(output(a=ONE))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_that_is_not_finite_blames_all_streams(bad: float) -> None:
    nats_B = torch.tensor([1.0, 2.0])
    assert torch.equal(blamed(nats_B, {"a": ONE, "b": ONE}), nats_B)
    assert not blamed(nats_B, {"a": ONE, "b": bad * ONE}).isfinite().any()
