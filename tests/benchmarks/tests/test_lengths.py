"""Growing lengths are held against fixed ones that read as many tokens and end alike."""

from typing import Any

import pytest
from training import ROOT

from trainer.config.command_line.flags import changed
from trainer.config.recipe import load_recipe


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks" / "recurrent"))
    import lengths

    return lengths


def test_all_arms_read_as_many_tokens_and_end_with_the_same_lengths(lengths: Any) -> None:
    read, ends = set(), set()
    for arm in lengths.ARMS.values():
        read.add(sum(n_steps * tgt_len for n_steps, tgt_len, _ in arm))
        flags = {name[2:].replace("-", "_"): v for name, v in lengths.flags_of(arm).items()}
        stages = changed(load_recipe("quickstart"), flags).train.stages
        assert [stage.lengths[:2] for stage in stages] == [stage[1:] for stage in arm]
        ends.add(stages[-1].lengths)
    assert len(read) == len(ends) == 1
