import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hvdtrain.train.order import NO_EXAMPLE, Order


def used(rows: np.ndarray) -> list[int]:
    """The examples of one step, without places that hold none."""
    return [int(number) for number in rows if number != NO_EXAMPLE]


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 6),
    per_step=st.integers(6, 40),
    steps=st.integers(0, 9),
    rest=st.integers(0, 39),
    pads=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_the_order_of_samples_does_not_depend_on_the_number_of_ranks(size, per_step, steps, rest, pads, seed):
    rest = rest % per_step
    pads = pads and rest >= size
    assume(steps + pads > 0)
    shape = (steps * per_step + rest, per_step, steps + pads, seed)
    alone = Order(*shape, 0, 1).batches(3)
    ranks = [Order(*shape, rank, size) for rank in range(size)]
    rows = [order.batches(3) for order in ranks]
    seen = []
    for step in range(steps + pads):
        together = [number for rank in range(size) for number in used(rows[rank][step])]
        assert together == used(alone[step])
        assert all(used(rows[rank][step]) for rank in range(size)), "a rank without examples would have no loss"
        weights = [order.loss_weights[step == steps + pads - 1] for order in ranks]
        counts = [len(used(rows[rank][step])) for rank in range(size)]
        assert weights == pytest.approx([count * size / len(together) for count in counts])
        seen += together
    assert len(set(seen)) == len(seen) == steps * per_step + (rest if pads else 0)
    assert ranks[0].is_even == (NO_EXAMPLE not in np.stack(rows) and len(set(map(len, rows))) == 1)


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
