"""Perplexity of a loss, wherever it is logged, filed, shown or judged."""

import math

#: Nats of the largest loss whose perplexity is a number; floats end at 709.
MOST_NATS = 700.0


def perplexity(loss: float) -> float:
    """Return the exponential of a loss in nats; above `MOST_NATS` it is infinite."""
    return math.inf if loss > MOST_NATS else math.exp(loss)
