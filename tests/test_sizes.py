"""Sizes in bytes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.sizes import size_text, to_bytes, to_sizes


@given(st.integers(0, 2**40))
def test_plain_numbers_are_bytes(number):
    assert to_bytes(str(number)) == number


@given(first=st.integers(0, 12), more=st.integers(0, 12))
def test_a_range_doubles_from_the_first_to_the_last(first, more):
    sizes = to_sizes(f"{4 * 2**first}:{4 * 2 ** (first + more)}")
    assert sizes == [4 * 2**power for power in range(first, first + more + 1)]


@pytest.mark.parametrize("text", ["", "x", "1KiB:", "-4", "4TiB", "3", "0", "8:4", "2GiB", "1.5KiB", "4;8"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="size"):
        to_sizes(text)


@given(power=st.integers(0, 30))
def test_words_are_read_back(power):
    assert to_bytes(size_text(2**power)) == 2**power
