"""Whole numbers are what was meant; anything that merely equals one isn't."""

import numpy as np
import pytest

from dom2_fast.errors import Dom2Error, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_kind(value):
    assert whole_number("n", value) == 3 and type(whole_number("n", value)) is int


@pytest.mark.parametrize("value", [0, -1, True, np.True_, 2.0, np.float64(2), "2", None, [2]])
def test_everything_else_is_refused(value):
    with pytest.raises(Dom2Error, match="n must be a whole number of at least 1, not "):
        whole_number("n", value)


def test_the_least_one():
    assert whole_number("n", 0, least=0) == 0
    with pytest.raises(Dom2Error, match="of at least 2, not 1"):
        whole_number("n", 1, least=2)
