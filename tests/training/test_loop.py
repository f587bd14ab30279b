"""What the loop decides by itself: which random numbers a micro step draws."""

from itertools import product

from trainer.training.loop import dropout_seed


def test_every_micro_step_of_every_rank_drops_elements_of_its_own() -> None:
    places = list(product((1, 2), range(3), range(3), range(3)))
    seeds = {dropout_seed(*place) for place in places}
    assert len(seeds) == len(places)


def test_a_micro_step_done_again_drops_the_same_elements() -> None:
    assert dropout_seed(1, 5, 0, 3) == dropout_seed(1, 5, 0, 3)
