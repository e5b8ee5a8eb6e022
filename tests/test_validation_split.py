"""`data.validation_split`: what is held out is never trained on, at any number of ranks, and counted by the plan."""

from typing import Any

import numpy as np
import pytest

from hvdtrain.config import Config
from hvdtrain.errors import PlanError, UserCodeError
from hvdtrain.facts import assumed_facts
from hvdtrain.plan import make_plan
from hvdtrain.train.order import Order, hold_out

CONFIG: dict[str, Any] = {
    "name": "demo",
    "model": {"source": "m:f"},
    "data": {"source": "d:f", "num_examples": 100},
    "training": {"epochs": 2, "global_batch_size": 10},
}


def plan(num_examples: int = 100, **data):
    given = {**CONFIG, "data": {**CONFIG["data"], "num_examples": num_examples, **data}}
    return make_plan(Config.model_validate(given), assumed_facts())


def test_the_plan_counts_what_is_trained_on():
    found = plan(validation_split=0.25)
    assert (found.num_examples, found.num_validation, found.steps_per_epoch) == (75, 25, 7)
    ledger = {entry.name: entry for entry in found.ledger}
    assert ledger["training examples"].rule == "data.num_examples 100, without those held out"
    assert ledger["validation examples"].value == "25"


def test_without_the_key_nothing_is_held_out():
    found = plan()
    assert (found.num_examples, found.num_validation) == (100, 0)
    assert "validation examples" not in {entry.name for entry in found.ledger}


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_something_is_held_out_and_something_is_trained_on(share):
    with pytest.raises(PlanError, match="at least one must be held out, and one trained on"):
        plan(validation_split=share)


def test_the_validation_seed_draws_and_the_training_seed_does_not():
    first, second = (hold_out(100, 25, seed)[1] for seed in (0, 1))
    assert not np.array_equal(first, second)
    orders = [Order(75, 10, 7, seed, 0, 1, chosen=hold_out(100, 25, 0)[0]) for seed in (0, 1)]
    assert set(orders[0].permutation(0)) == set(orders[1].permutation(0)), "another order of the same examples"
    assert not np.array_equal(orders[0].permutation(0), orders[1].permutation(0))


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_rank_trains_on_what_is_held_out(size, divide):
    trained, held_out = hold_out(100, 25, 0)
    orders = [Order(75, 12, 6, 7, rank, size, divide=divide, chosen=trained) for rank in range(size)]
    for epoch in range(3):
        seen = np.concatenate([order.batches(epoch).ravel() for order in orders])
        assert set(seen) <= {-1, *trained}
        assert not set(seen) & set(held_out)
        if not divide:
            assert len(set(seen) - {-1}) == 72, "each example once"
    assert orders[0].end == trained[-1] + 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_ranks_share_what_is_held_out(size):
    from hvdtrain.train.data import validation_part

    x, y = np.arange(200.0).reshape(100, 2), np.arange(100)
    _, rows = hold_out(100, 5, 0)
    parts = [validation_part((x, y), rows, batch_size=2, rank=rank, size=size) for rank in range(size)]
    batches = [list(part.batches.as_numpy_iterator()) for part in parts]
    seen = [label for part, mine in zip(parts, batches, strict=True) if part.counts for _, b in mine for label in b]
    assert sorted(seen) == rows.tolist()
    assert all(np.array_equal(images, x[labels]) for mine in batches for images, labels in mine)


def test_stored_examples_are_held_out_by_number():
    from hvdtrain.train.data import validation_part
    from hvdtrain.train.stored import StoredArray

    stored = StoredArray(10, (1,), np.float32, lambda rows: rows[:, None].astype(np.float32))
    part = validation_part((stored, np.arange(10)), np.array([2, 5, 9]), batch_size=2, rank=0, size=1)
    assert [labels.tolist() for _, labels in part.batches.as_numpy_iterator()] == [[2, 5], [9]]
    assert [images.ravel().tolist() for images, _ in part.batches.as_numpy_iterator()] == [[2.0, 5.0], [9.0]]


def test_a_dataset_is_split_where_it_is_made(tmp_path):
    from types import SimpleNamespace

    from hvdtrain.train.job import load

    (tmp_path / "pipelines.py").write_text(
        "import tensorflow as tf\ndef f():\n    return tf.data.Dataset.from_tensor_slices(([1.0] * 100, [0] * 100))\n"
    )
    found = plan(source="pipelines:f", validation_split=0.1)
    with pytest.raises(UserCodeError, match=r"returns a tf\.data\.Dataset: split it there"):
        load(SimpleNamespace(plan=found, folder=tmp_path))  # type: ignore[arg-type]
