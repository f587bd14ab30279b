"""Rows that are lent are those of a selection, and so are their gradients."""

import torch

from trainer.model.lent_rows import with_rows


def test_rows_that_are_lent_give_their_gradients_back() -> None:
    torch.manual_seed(0)
    x_ND = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    lists = [torch.tensor(rows, dtype=torch.int64) for rows in ([4, 0, 6], [], [6, 6, 1])]
    made = with_rows(x_ND, lists)
    wanted = [x_ND, *(x_ND.index_select(0, rows) for rows in lists)]
    assert all(map(torch.equal, made, wanted))
    weights = [torch.randn_like(x) for x in wanted]
    before = [weight.clone() for weight in weights]
    (got,) = torch.autograd.grad(made, x_ND, weights)
    torch.testing.assert_close(got, torch.autograd.grad(wanted, x_ND, weights)[0])
    assert all(map(torch.equal, weights, before)), "what arrives is not ours to change"
    assert with_rows(x_ND, []) == [x_ND]
