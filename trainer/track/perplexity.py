"""The perplexity of a loss, for every place that logs, saves, shows or judges one."""

import math

#: The largest loss in nats whose perplexity is finite here; a float's exponent ends at 709.
MOST_NATS = 700.0


def perplexity(loss: float) -> float:
    """Return the exponential of a loss in nats; above `MOST_NATS` it is infinite."""
    return math.inf if loss > MOST_NATS else math.exp(loss)


def shown_perplexity(value: float) -> str:
    """Return a perplexity as the console and reports show it: 62.59, or 1.25e+07."""
    return f"{value:.2f}" if value < 1e6 else f"{value:.2e}"
