"""The sizes that a refused batch is answered with."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.config.divisors import divisors, divisors_near


@given(st.integers(1, 5000))
def test_every_divisor_is_found_once_and_in_order(number: int) -> None:
    assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


@given(st.integers(1, 10**18), st.integers(0, 10**18))
def test_an_answer_is_short_and_right_for_any_number(number: int, wanted: int) -> None:
    told = divisors_near(number, wanted).replace(" or ", ", ").split(", ")
    assert 1 <= len(told) <= 12
    assert all(number % int(n) == 0 for n in told)


def test_those_near_what_was_wanted_are_told() -> None:
    assert divisors_near(32, 5) == "1, 2, 4, 8, 16 or 32"
    assert divisors_near(10**9 + 7, 2) == "1 or 1000000007"
    assert "1024" in divisors_near(2**40, 1000).replace(" or ", ", ").split(", ")
