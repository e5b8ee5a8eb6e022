"""What a distributed optimizer promises, for all of Keras: the ranks' results of tests/ranks/semantics.py."""

import pytest

from tests.ranks.worlds import all_equal


def test_every_optimizer_follows_the_trajectory_of_one_process(results):
    values = results.of("every_optimizer")
    assert len(values[0]) >= 3 * 12, "the walk over keras.optimizers found too little"
    for name, first in values[0].items():
        (off,) = [value[name]["off"] for value in values if "off" in value[name]]
        assert off < 1e-9, f"{name} is off by {off}"
        assert first["moved"] > 1e-6, f"{name} did not train"
        assert all_equal([value[name]["bits"] for value in values]), f"{name}: ranks differ"


@pytest.mark.travel
def test_several_optimizers_and_one_with_slots(results):
    for value in results.of("multi_optimizer_and_built"):
        assert value == {"several": pytest.approx(0, abs=1e-9), "built": pytest.approx(0, abs=1e-9)}


@pytest.mark.travel
def test_accumulated_steps_are_one_big_one_with_one_collective(results):
    for value in results.of("accumulation"):
        assert value["off"] < 1e-9
        assert value["collectives"] == 4, "8 steps are 4 updates"


@pytest.mark.travel
def test_float16_ranks_skip_the_same_steps(results):
    values = results.of("mixed_float16")
    assert all_equal([value["digest"] for value in values])
    assert all_equal([value["scale"] for value in values])
    for value in values:
        assert value["kind"] == "LossScaleOptimizer"
        assert value["updates"] <= value["good_steps"] < value["mine_good"], "each rank must have steps of its own"
        assert value["updates"] > 0.9 * value["good_steps"]


@pytest.mark.travel
def test_bfloat16_ranks_stay_in_sync(results):
    assert all_equal(results.of("mixed_bfloat16"))


def test_loss_scaling_around_a_distributed_optimizer_is_refused(results):
    for value in results.of("loss_scaling_in_the_wrong_place"):
        assert "hk.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(...))" in value["in_fit"]
        assert value["twice"] == value["in_fit"]


@pytest.mark.travel
def test_embeddings_equal_one_process_and_stay_rows(results):
    size = results.size
    for value in results.of("embeddings"):
        assert all(off < 1e-9 for off in value["off"].values()), value["off"]
        assert value["is_rows"]
        assert value["indices"] == [1, *range(2, size + 2)]
        assert value["values"] == pytest.approx([2.0, *[1 / size] * size])


def test_every_metric_equals_one_process_or_is_labelled(results):
    values = results.of("every_metric")
    assert len(values[0]) >= 40, "the walk over keras.metrics found too little"
    for value in values:
        wrong = {name: entry["off"] for name, entry in value.items() if entry["summable"] and entry["off"] > 1e-5}
        assert not wrong
    assert sum(entry["local_off"] > 1e-4 for entry in values[0].values()) > 30, "local values must be able to differ"


def test_a_metric_of_ones_own_is_labelled(results):
    assert all(value == ["largest"] for value in results.of("own_metric_is_labelled"))
