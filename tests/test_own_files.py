"""Files of a rank's own: what each rank opens, that all make equal steps, and what is used twice or left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.errors import UserCodeError
from hvdtrain.train.data import own_order
from hvdtrain.train.order import NO_EXAMPLE, Order
from hvdtrain.train.own_files import OwnOrder, deal_files
from hvdtrain.train.stored import OwnFiles

COUNTS = (40, 3, 12, 7, 11)  # records in the files of tests.ranks.staging


@pytest.mark.core
def test_each_rank_opens_and_trains_on_its_own_files(results):
    values = results.of("own_files")
    opened = [name for value in values for name in value["opened"]]
    assert sorted(opened) == [f"{number}.tfrecord" for number in range(5)]
    first = np.cumsum([0, *COUNTS])
    for value in values:
        own = {number for name in value["opened"] for number in range(first[int(name[0])], first[int(name[0]) + 1])}
        assert sorted(value["evaluated"]) == sorted(own)
        steps = sum(COUNTS) // (4 * results.size)
        assert all([len(batch) for batch in epoch] == [4] * steps for epoch in value["epochs"])
        assert {number for epoch in value["epochs"] for batch in epoch for number in batch} <= own
        one, other, again = value["epochs"]
        assert one == again != other


@pytest.mark.core
def test_images_are_dealt_out_too(results):
    values = results.of("own_files")
    assert sorted(image for value in values for image in value["images"]) == list(range(7))
    assert all(
        label == image % 2 for value in values for image, label in zip(value["images"], value["labels"], strict=True)
    )
    assert all("1 files for" in value["few"][2] for value in values)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_files_are_dealt_out_whole_and_about_evenly(sizes: list[int], num_ranks: int):
    if len(sizes) < num_ranks:
        with pytest.raises(UserCodeError, match="each rank needs one at least"):
            deal_files(sizes, num_ranks)
        return
    dealt = deal_files(sizes, num_ranks)
    assert sorted(number for mine in dealt for number in mine) == list(range(len(sizes)))
    assert all(dealt)
    loads = [sum(sizes[number] for number in mine) for mine in dealt]
    assert max(loads) - min(loads) <= max(sizes)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_steps_are_equal_and_nothing_is_used_twice_without_need(counts: list[int], batch: int, pads: bool, epoch: int):
    size, total = len(counts), sum(counts)
    steps = total // (batch * size) + (pads and total % (batch * size) >= size)
    if not steps:
        return
    for rank, count in enumerate(counts):
        order = OwnOrder(total, batch * size, steps, 0, rank, size, counts=tuple(counts))
        rows = order.batches(epoch)
        plain = Order(total, batch * size, steps, 0, rank, size).batches(epoch)
        assert ((rows == NO_EXAMPLE) == (plain == NO_EXAMPLE)).all(), "as many examples at each step as with arrays"
        used = np.bincount(rows[rows != NO_EXAMPLE], minlength=count)
        assert len(used) == count
        assert used.max() - used.min() <= 1


def test_imbalance_is_said():
    order = OwnOrder(100, 10, 10, 0, 0, 2, counts=(45, 55))
    assert order.balance_text == (
        "own files: ranks have 45 to 55 examples and use 50 in each epoch; up to 5 are used twice; up to 5 are left "
        "out, other ones each time"
    )


def test_a_rank_that_is_to_see_everything_cannot_have_files_of_its_own():
    data = OwnFiles((), lambda *batch: batch, (4, 4))
    with pytest.raises(UserCodeError, match="epoch_splitting must be shard"):
        own_order(Order(8, 2, 4, 0, 0, 2, divide=True), data)
