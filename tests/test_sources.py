"""Training data of every kind on real ranks; see tests/ranks/sources.py."""

import pytest

from hvdtrain.train.order import Order
from tests.ranks.worlds import all_equal


def together(values: list, epoch: int) -> list[list[int]]:
    """Return each step's examples of all ranks, one rank after the other."""
    return [[number for value in values for number in value[epoch][step]] for step in range(len(values[0][epoch]))]


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_arrays_come_in_the_order_of_one_process(results, remainder):
    """Whatever the number of ranks, a global batch holds the same examples."""
    size = results.size
    values = [value[remainder] for value in results.of("arrays_in_order")]
    num_examples = 11 * size + 1
    steps = 2 + (remainder == "pad")
    alone = Order(num_examples, 5 * size, steps, seed=3, rank=0, size=1)
    for epoch in range(2):
        expected = [[int(number) for number in row if number >= 0] for row in alone.batches(epoch)]
        assert together(values, epoch) == expected
    assert values[0][0] != values[0][1], "each epoch has its own order"
    if remainder == "pad":
        assert sorted(number for step in together(values, 0) for number in step) == list(range(num_examples))


def test_batches_are_dealt_out_disjoint_and_in_equal_steps(results):
    values = results.of("batches_dealt_out")
    used = 2 * 4 * results.size
    for name in ("py_dataset", "generator"):
        for epoch in range(len(values[0][name])):
            seen = [number for value in values for number in value[name][epoch]]
            assert len(seen) == len(set(seen)) == used, name
            assert all_equal([len(value[name][epoch]) for value in values])
    seen = [number for value in values for number in value["unknown"]]
    assert sorted(seen) == list(range(used))
    assert values[0]["py_dataset"][0] != values[0]["py_dataset"][1], "shuffled after an epoch"
    assert all(value["workers"] == 2 for value in values)


def test_control_a_shuffle_at_the_epochs_end_differs_by_rank(results):
    values = results.of("batches_dealt_out")
    assert len({str(value["unguarded"]) for value in values}) == results.size
    assert len({value["random_afterwards"] for value in values}) == results.size, "the user's generator goes on"


def test_ranks_train_together_on_every_source(results):
    values = results.of("trains_on_all_sources")
    assert all_equal(values)
    batches = 9 // results.size
    assert values[0]["py_dataset"]["steps"] == values[0]["generator"]["steps"] == 2 * batches
    assert values[0]["arrays"]["steps"] == 2 * (40 // (4 * results.size))


def test_resume_goes_on_with_the_order_of_its_epoch(results):
    for value in results.of("resumed_arrays"):
        assert value["resumed"] == value["within"] == value["whole"] != value["half"]
        assert value["writers"] == [f"{name}_0.weights.h5" for name in ("parts", "whole", "within")]


@pytest.mark.travel
def test_uneven_shares_follow_the_trajectory_of_one_process(results):
    for value in results.of("uneven_shares"):
        for name in ("arrays", "dataset"):
            assert value[name]["weights"] < 1e-9, name
            assert value[name]["history"] < 1e-9, name
        assert value["unweighted"]["weights"] > 1e-6, "the test must be able to fail"


@pytest.mark.travel
def test_padded_arrays_follow_the_trajectory_of_one_process(results):
    for value in results.of("padded_arrays"):
        assert all(off < 1e-9 for off in value.values()), value


def test_sources_that_cannot_be_cut_are_refused(results):
    size = results.size
    for rank, value in enumerate(results.of("source_refusals")):
        assert f"use {size - 1} ranks at most" in value["few_arrays"]
        assert f"64 x {size} ranks; use batch_size={64 // size} at most" in value["few_for_the_batch"]
        assert f"{size - 1} elements for {size} ranks" in value["few_batches"]
        assert f"{size - 1} elements for {size} ranks" in value["few_elements"]
        assert "hk.shard((x, y), batch_size=32)" in value["no_batch_size"]
        assert "batch_size and remainder are for arrays" in value["batch_size"]
        assert "first and last example" in value["other_arrays"]
        assert "on rank 1" in value["other_arrays"]
        assert "first batch" in value["other_batches"]
        assert value["augmented"] == "nothing was raised", "batches that differ by themselves cannot be compared"
        assert "pass the function that makes it" in value["started"]
        assert "shard(dataset, length=N)" in value["unknown"]
        assert "length=99 was stated" in value["wrong_length"]
        assert f"rank {rank} needs 3 of {3 * size} elements" in value["ended_early"]
        assert "expected arrays with one row per example" in value["no_arrays"]
        assert "hk.callbacks([...], data=...)" in value["untold"]
        assert "leave steps_per_epoch and take() out" in value["steps_per_epoch"]
