import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.train.order import Order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 9), st.integers(0, 50), st.integers(0, 2**31 - 1))
def test_the_order_of_samples_does_not_depend_on_the_number_of_ranks(size, batch, steps, extra, seed):
    num_examples = size * batch * steps + min(extra, size * batch - 1)
    alone = Order(num_examples, batch * size, steps, seed, 0, 1)
    ranks = [Order(num_examples, batch, steps, seed, rank, size) for rank in range(size)]
    for epoch in (0, 3):
        together = np.concatenate([order.batches(epoch) for order in ranks], axis=1)
        assert np.array_equal(together, alone.batches(epoch))
        assert len(np.unique(together)) == together.size


def test_each_epoch_and_seed_has_its_own_order():
    orders = [Order(100, 10, 10, seed, 0, 1).batches(epoch).tobytes() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_divide_shows_every_rank_the_whole_set_in_its_own_order():
    orders = [Order(100, 10, 10, 0, rank, 3, divide=True).batches(2) for rank in range(3)]
    assert all(sorted(order.reshape(-1)) == list(range(100)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])


def test_the_order_is_pinned():
    """A change here would change every run's data order: resuming an old run would no longer be exact."""
    assert Order(10, 5, 2, 7, 0, 1).batches(0).tolist() == PINNED


PINNED = [[1, 2, 0, 9, 8], [4, 7, 6, 3, 5]]
