"""The text that implementations are measured on is as rare in its words as WikiText-103 is."""

from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1]
#: Targets of WikiText-103's train split, and how often its rarest word occurs (Merity et al. 2016).
N_TARGETS, RAREST = 103_227_021, 3


@pytest.fixture
def dims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module of sizes and texts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measured.dims

    return measured.dims


@pytest.mark.parametrize("name", ["small", "wt103-base", "eval-64/640"])
def test_the_tails_hold_the_share_of_targets_that_wikitext_103_has_there(
    dims: ModuleType, name: str
) -> None:
    words, shares = zip(*dims.clusters(dims.CONFIGS[name]), strict=True)
    assert words == (20_000, 20_000, 160_000, 67_735)
    assert shares[1:] == pytest.approx((0.026, 0.028, 0.0025), rel=0.02)
    assert sum(shares[1:]) == pytest.approx(0.057, abs=5e-5)
    assert sum(shares) == pytest.approx(1)


def test_the_rarest_word_is_as_rare_as_wikitext_103s(dims: ModuleType) -> None:
    rarest = dims.frequencies(dims.CONFIGS["wt103-base"])[-1]
    assert rarest * N_TARGETS == pytest.approx(RAREST, rel=0.01)


@pytest.mark.parametrize("name", ["tiny", "toy", "wt103-base"])
def test_a_text_holds_its_words_as_often_as_the_law_says(dims: ModuleType, name: str) -> None:
    made = dims.CONFIGS[name]
    shares, ids = dims.frequencies(made), dims.text(made, n_segments=100_000 // made.tgt_len)
    assert (shares[:-1] >= shares[1:]).all()
    assert ids.shape == (made.n_streams, 100_000 // made.tgt_len * made.tgt_len)
    assert ids.max() < made.vocab_size
    for rank in (1, 10, made.cutoffs[0] if made.cutoffs else made.vocab_size // 2):
        expected = shares[:rank].sum()
        error = (expected * (1 - expected) / ids.size) ** 0.5
        assert (ids < rank).mean() == pytest.approx(expected, abs=5 * error)
