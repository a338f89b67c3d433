from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl.training.batch_search import foreseen, largest_that_fits


@given(st.integers(1, 3000), st.integers(0, 4000))
def test_the_largest_that_fits_is_found_in_few_tries(most: int, limit: int) -> None:
    tried: list[int] = []

    def fits(crops: int) -> bool:
        tried.append(crops)
        return crops <= limit

    assert largest_that_fits(fits, most) == min(most, limit)
    assert len(tried) == len(set(tried)) <= 2 * most.bit_length() + 1
    assert all(1 <= crops <= most for crops in tried)


def test_tries_double_and_then_halve_the_gap() -> None:
    tried: list[int] = []
    assert largest_that_fits(lambda crops: tried.append(crops) or crops <= 21, 100) == 21
    assert tried == [1, 2, 4, 8, 16, 32, 24, 20, 22, 21]


def test_memory_is_foreseen_on_a_straight_line() -> None:
    assert foreseen({}, 8) == foreseen({4: 100}, 8) == 0.0
    assert foreseen({1: 7, 2: 20, 4: 30}, 8) == pytest.approx(50.0)  # 5 for each crop
    assert foreseen({2: 40, 4: 30}, 8) == 30.0  # noise is no gain
