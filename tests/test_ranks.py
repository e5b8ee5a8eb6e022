"""Training semantics on real Horovod, with 2, 3 and 4 ranks: what every rank returned is compared here."""

import json

import pytest

from tests.ranks.worlds import all_equal


@pytest.mark.parametrize("name", ["sgd", "momentum_clipped", "adam", "adamw", "rmsprop"])
@pytest.mark.core
def test_weights_are_bit_identical(results, name):
    expect_equal_weights(results, name)


@pytest.mark.parametrize("name", ["adam_clipvalue", "adam_ema", "adam_accumulated"])
@pytest.mark.travel
def test_weights_are_bit_identical_with_options(results, name):
    expect_equal_weights(results, name)


def expect_equal_weights(results, name):
    values = results.of(f"in_sync_{name}")
    assert len({value["initial"] for value in values}) == results.size, "ranks must start apart"
    assert all_equal([value["final"] for value in values])
    assert all_equal([value["steps"] for value in values])


@pytest.mark.core
def test_control_horovods_own_wrapper_fails_the_same_test(results):
    assert len({value["final"] for value in results.of("horovods_own_wrapper")}) == results.size
    assert all_equal(results.of("same_weights_without_wrapper"))


@pytest.mark.core
def test_reduced_gradient_equals_the_big_batch_gradient(results):
    for value in results.of("gradient_equals_big_batch"):
        assert value["worst"] < 1e-5
        assert value["local_differs_by"] > 1e-3, "the test must be able to fail"


@pytest.mark.core
def test_trajectory_equals_one_process(results):
    assert all(value["worst"] < 1e-6 for value in results.of("trajectory_equals_one_process"))


@pytest.mark.core
def test_moving_statistics_are_averaged(results):
    values = results.of("moving_statistics")
    assert all_equal(values)
    # 2 executions of momentum 0.99 over inputs that differ by rank: a local statistic could not be equal.
    assert max(values[0]["mean"]) > 0


@pytest.mark.core
def test_dropout_masks_differ_by_rank_and_counters_do_not(results):
    values = results.of("dropout_masks_differ")
    assert len({value["mask"] for value in values}) == results.size
    assert all_equal([value["counter"] for value in values])


@pytest.mark.core
def test_flat_buffers_keep_dtypes_shapes_and_none(results):
    mean = (results.size - 1) / 2
    for value in results.of("flat_buffers"):
        assert value == {"mean": [mean, mean, 2 * mean], "shapes": [[2, 3], [1], []], "none": True, "gradient": mean}


@pytest.mark.core
def test_both_ways_of_averaging_agree(results):
    values = results.of("reduction")
    for value in values:
        assert value["shared"] == (results.reduction == "shared_memory")
        assert value["mean"] == pytest.approx(0.1 * (results.size + 1) / 2, rel=1e-6)
        assert value["worst"] < 1e-7
    assert all_equal([value["bits"] for value in values])


@pytest.mark.travel
def test_a_rank_that_traces_again_alone_still_meets_the_others(results):
    values = results.of("retraced_on_one_rank")
    steps = 2 * 3 + 2 * (3 * (results.size - 1) + 5) / results.size
    assert values == [pytest.approx(steps)] * results.size


@pytest.mark.core
def test_shards_are_disjoint_and_cover_in_equal_steps(results):
    values = results.of("shards")
    steps = 103 // (5 * results.size)
    for epoch in range(2):
        seen = [number for value in values for batch in value["epochs"][epoch] for number in batch]
        assert len(seen) == len(set(seen)) == steps * 5 * results.size
        assert all(len(value["epochs"][epoch]) == steps for value in values)
    assert values[0]["epochs"][0] != values[0]["epochs"][1], "each epoch has its own order"
    evaluated = [number for value in values for number in value["evaluated"]]
    assert sorted(evaluated) == list(range(103))
    dealt = [number for value in values for number in value["dealt"]]
    assert len(dealt) == len(set(dealt)) == 103 - 103 % results.size
    assert all_equal([len(value["dealt"]) for value in values])


@pytest.mark.core
def test_divide_shows_each_rank_everything_in_its_own_order(results):
    values = results.of("divide")
    assert all(value["seen"] == list(range(40)) for value in values)
    assert len({json.dumps(value["order"]) for value in values}) == results.size


def test_shard_refuses_what_would_overlap(results):
    for value in results.of("shard_refusals"):
        assert "shuffled without a seed" in value["unseeded"]
        assert "shuffle seeds" in value["other_order"]
        assert "cardinality" in value["other_length"]
        assert value["same"] == value["seeded"] == "nothing was raised"
        assert "infinite" in value["infinite"]
        assert "unknown" in value["unknown"]
        assert f"1 elements for {results.size} ranks" in value["small"]


@pytest.mark.core
def test_metrics_are_those_of_the_whole_data(results):
    for value in results.of("global_metrics"):
        for name, expected in value["expected"].items():
            assert value["seen"][name] == pytest.approx(expected, rel=1e-6), name
            assert value["history"][name] == pytest.approx(expected, rel=1e-6), name


@pytest.mark.core
def test_one_rank_that_stops_stops_all(results):
    assert [value["epochs"] for value in results.of("stop_together")] == [2] * results.size


@pytest.mark.core
def test_exactly_one_rank_writes(results):
    for value in results.of("one_writer"):
        assert value["files"] == ["by_0.csv", "by_0.weights.h5", "ckpt_0"]


@pytest.mark.travel
def test_checkpoint_of_rank_0_restores_every_rank(results):
    values = results.of("checkpoint_round_trip")
    assert all_equal(values)
    assert values[0]["resumed"] == values[0]["whole"] != values[0]["half"]


@pytest.mark.core
def test_a_tampered_replica_is_caught_and_named(results):
    values = results.of("tampered_replica")
    who = "on rank 1" if results.size > 2 else "between ranks 0 and 1"
    for value in values:
        assert f"kernel differs {who}" in value["caught"]
        assert "at step 3" in value["caught"]
        assert value["exit_code"] == 70
    assert all_equal(values)


def test_nan_stops_all_ranks_before_a_checkpoint(results):
    values = results.of("nonfinite")
    assert all_equal(values)
    assert "not finite at step 2" in values[0]["caught"]
    assert values[0]["saved"] == []


def test_ranks_that_disagree_do_not_hang(results):
    for value in results.of("models_differ"):
        assert "ranks disagree before the first step" in value["caught"]
        assert "[6, 3]" in value["caught"]


def test_what_cannot_work_is_refused(results):
    for value in results.of("refusals"):
        assert "plain SGD" in value["plain"]
        assert "no weights yet" in value["unbuilt"]
        assert "jit_compile=True" in value["jit"]
        assert "already" in value["twice"]
        assert "needs a Keras optimizer object" in value["string"]


def test_a_distributed_optimizer_serialises_as_the_original(results):
    for value in results.of("serialises_as_the_original"):
        assert value["found"] == value["expected"]
        assert value["name"] == "AdamW"
        assert value["keeps"], "a rebuilt optimizer would have lost its exclusions"


@pytest.mark.core
def test_warm_up_starts_at_the_one_rank_rate(results):
    for value in results.of("warm_up"):
        assert value["first"] == value["expected"]
        assert value["last"] == pytest.approx(0.1 * results.size, rel=1e-6)
