"""What a measurement says: the parts of a step add up, and the slowest rank counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain.study.sample import PARTS, parts_of, sample_of

times = st.lists(st.floats(1e-4, 10), min_size=3, max_size=3)


def rank(step=0.01, function=0.009, alone=0.007, held=0.006, reading=0.001, **more):
    cycles = {"step": step, "function": function, "alone": alone, "held": held, "input": reading}
    return {
        "rank": 0, "host": "a", "cores": [0], "cpu_share": 0.9, "peak_rss_mb": 500.0, "gpu_peak_mb": None,
        "peak_flop_per_s": 1e10, "cycles": {name: [value] * 3 for name, value in cycles.items()}, **more,
    }  # fmt: skip


def measurement(*ranks, **more):
    return {
        "num_ranks": len(ranks), "num_replicas": len(ranks), "num_nodes": 1, "global_batch_size": 128 * len(ranks),
        "steps_per_execution": 10, "flop_per_example": 1e6, "start_up_s": 2.0, "ranks": list(ranks), **more,
    }  # fmt: skip


@given(step=times, function=times, alone=times, held=times, reading=times)
def test_parts_add_up_to_the_step_and_none_is_negative(step, function, alone, held, reading):
    parts = parts_of({"step": step, "function": function, "alone": alone, "held": held, "input": reading})
    assert set(parts) == set(PARTS)
    assert sum(parts.values()) == pytest.approx(sorted(step)[1])
    assert min(parts.values()) >= 0


def test_the_slowest_rank_counts():
    found = sample_of(measurement(rank(), rank(alone=0.008, function=0.0095, step=0.01)), kind="ranks", repeat=0)
    assert found.examples_per_s == pytest.approx(256 / 0.01)
    assert found.ceiling_s == pytest.approx(0.01 - 0.0095 + 0.008)
    assert found.imbalance == pytest.approx(0.008 / 0.0075 - 1)
    assert found.cpu_share == pytest.approx(1.8)


def test_operations_per_second_and_their_share_of_the_peak():
    found = sample_of(measurement(rank(), rank()), kind="ranks", repeat=0)
    assert found.flop_per_s == pytest.approx(1e6 * 25_600)
    assert found.share_of_peak == pytest.approx(1e6 * 25_600 / 2e10)


def test_what_cannot_be_read_twice_has_no_ceiling():
    one = rank()
    one["cycles"] = {name: one["cycles"][name] for name in ("step", "function")}
    found = sample_of(measurement(one), kind="ranks", repeat=0)
    assert found.ceiling_s is None
    assert found.ceiling_examples_per_s is None
    assert found.input_only_s is None
    assert found.parts["communication"] == 0


def test_unknown_operations_stay_unknown():
    found = sample_of(measurement(rank(), flop_per_example=None), kind="ranks", repeat=0)
    assert found.flop_per_s is None
    assert found.share_of_peak is None
