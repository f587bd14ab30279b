"""A token is drawn from all words' distribution, whatever is computed of the tails."""

from collections import Counter
from typing import Any

import pytest
import torch

from trainer.inference.drawing import all_known, draw, probabilities
from trainer.inference.sampling_options import Sampling
from trainer.model.adaptive import LogProbs

BOUNDS = [(0, 4), (4, 7), (7, 15)]


def words(
    *, seed: int = 0, spread: float = 1.0, tails: tuple[float, float] = (0.0, 0.0)
) -> LogProbs:
    """Return log-probabilities of a head and two tails, whose logits are raised by `tails`."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(1, BOUNDS[-1][1], generator=generator, dtype=torch.float64)
    for (low, high), raised in zip(BOUNDS[1:], tails, strict=True):
        logits[:, low:high] += raised
    log_probs = logits.log_softmax(-1)
    of_tails = [log_probs[:, low:high].logsumexp(-1) for low, high in BOUNDS[1:]]
    return LogProbs(
        BOUNDS,
        log_probs[:, : BOUNDS[0][1]],
        torch.stack(of_tails, dim=-1),
        lambda c: log_probs[:, slice(*BOUNDS[c])],
    )


def counting(found: LogProbs) -> tuple[LogProbs, Counter[int]]:
    """Return the log-probabilities, and how often each tail is asked for its words."""
    asked: Counter[int] = Counter()

    def of_tail(c: int) -> torch.Tensor:
        asked[c] += 1
        return found.of_tail(c)

    return found._replace(of_tail=of_tail), asked


CHOICES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.4},
    {"temperature": 3.0},
    {"top_k": 3},
    {"top_k": 9, "temperature": 2.0},
    {"top_p": 0.7},
    {"top_k": 6, "top_p": 0.6},
]


@pytest.mark.parametrize("tails", [(0.0, 0.0), (2.0, -3.0), (-6.0, -6.0)], ids=str)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_tokens_are_as_frequent_as_they_are_likely(
    choice: dict[str, Any], tails: tuple[float, float]
) -> None:
    n_draws, draws = 4000, torch.Generator().manual_seed(1)
    given, sampling = words(tails=tails), Sampling(n_tokens=1, **choice)
    wanted_V = probabilities(given.of_all()[0], sampling)
    drawn = torch.tensor([draw(given, sampling, draws) for _ in range(n_draws)])
    share_V = drawn.bincount(minlength=len(wanted_V)) / n_draws
    error_V = (wanted_V * (1 - wanted_V) / n_draws).sqrt()
    assert ((share_V - wanted_V).abs() <= 4.5 * error_V).all()
    assert (share_V[wanted_V == 0] == 0).all()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_words_that_are_all_known_are_drawn_as_from_one_list(choice: dict[str, Any]) -> None:
    log_probs, sampling = words().of_all(), Sampling(n_tokens=1, **choice)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(50):
        plain = torch.multinomial(probabilities(log_probs[0], sampling), 1, generator=generators[0])
        assert draw(all_known(log_probs, ()), sampling, generators[1]) == int(plain)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_it_does_not_matter_who_knows_the_tails(choice: dict[str, Any]) -> None:
    given, sampling = words(tails=(1.0, 0.0)), Sampling(n_tokens=1, **choice)
    known = all_known(given.of_all(), (4, 7, 99))
    assert known.bounds == given.bounds
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for _ in range(50):
        assert draw(known, sampling, generators[0]) == draw(given, sampling, generators[1])


@pytest.mark.parametrize("choice", [{"temperature": 0.0}, {"top_k": 1}, {"temperature": 1e-310}])
@pytest.mark.parametrize("seed", range(20))
def test_the_likeliest_may_lie_in_any_cluster(seed: int, choice: dict[str, float]) -> None:
    given = words(seed=seed, spread=2.0)
    sampling = Sampling(n_tokens=1, **choice)  # type: ignore[arg-type]
    token = draw(given, sampling, torch.Generator().manual_seed(seed))
    assert token == int(given.of_all().argmax())


def test_of_equally_likely_words_the_heads_comes_before_a_tails() -> None:
    same = torch.full((1, 15), -1.0).log_softmax(-1)
    given = words()._replace(
        head_NV=same[:, :4],
        tails_NK=torch.stack([same[:, 4:7].logsumexp(-1), same[:, 7:].logsumexp(-1)], dim=-1),
        of_tail=lambda c: same[:, slice(*BOUNDS[c])],
    )
    assert draw(given, Sampling(n_tokens=1, temperature=0.0), torch.Generator()) == 0


@pytest.mark.parametrize("choice", [{"temperature": 0.0}, {"top_k": 4}])
def test_tails_that_cannot_be_drawn_from_are_not_computed(choice: dict[str, float]) -> None:
    given, asked = counting(words(tails=(-20.0, -20.0)))
    draw(given, Sampling(n_tokens=1, **choice), torch.Generator())  # type: ignore[arg-type]
    assert not asked


def test_a_tail_is_computed_about_as_often_as_it_is_drawn() -> None:
    given, asked = counting(words(tails=(-1.0, -2.0)))
    n_draws, draws = 1000, torch.Generator().manual_seed(0)
    for _ in range(n_draws):
        draw(given, Sampling(n_tokens=1), draws)
    for c in (1, 2):
        share = float(given.tails_NK[0, c - 1].exp())
        assert asked[c] / n_draws == pytest.approx(share, rel=0.2)
