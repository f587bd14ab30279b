"""Perplexity is the exponential of a loss, and never an error."""

import math

import pytest

from trainer.track.perplexity import MOST_NATS, perplexity


def test_it_is_the_exponential_of_a_loss() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(2.0) == pytest.approx(7.389056)


def test_a_perplexity_beyond_the_floats_is_infinite() -> None:
    assert math.isfinite(perplexity(MOST_NATS))
    assert perplexity(1e6) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))
