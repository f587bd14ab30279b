"""What back ends share: a tail of a few sizes."""

import torch

from trainer.model.backend import fill_up
from trainer.protocol import IGNORED


def test_a_tail_is_filled_up_with_rows_that_count_for_nothing() -> None:
    rows = torch.tensor([7, 3, 9])
    more_rows, more_targets = fill_up(rows, torch.tensor([1, 0, 4]), to=256)
    assert len(more_rows) == len(more_targets) == 256
    assert torch.equal(more_rows[:3], rows)
    assert more_targets[:3].tolist() == [1, 0, 4]
    assert set(more_rows[3:].tolist()) == {0}
    assert set(more_targets[3:].tolist()) == {IGNORED}
    assert {len(x) for x in fill_up(rows[:0], rows[:0], to=16)} == {0}
    assert {len(x) for x in fill_up(rows[:0], rows[:0], to=256, least=256)} == {256}
