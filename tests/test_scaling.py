import doctest
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdtrain import known_data, metrics, names, scaling
from hvdtrain.launch import rank, shell

COUNTS = st.integers(1, 10_000)


@pytest.mark.parametrize("module", [scaling, names, metrics, known_data, rank, shell], ids=lambda m: m.__name__)
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


@given(COUNTS, st.integers(1, 1000))
def test_shards_are_disjoint_covering_and_even(num_examples, size):
    bounds = [scaling.shard_bounds(num_examples, rank=rank, size=size) for rank in range(size)]
    assert bounds[0][0] == 0
    assert bounds[-1][1] == num_examples
    assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))
    lengths = [end - begin for begin, end in bounds]
    assert max(lengths) - min(lengths) <= 1


@given(COUNTS, st.integers(1, 1000))
def test_divided_epochs_train_at_least_as_much_and_at_most_one_epoch_more(epochs, replicas):
    divided = scaling.divided_epochs(epochs, replicas)
    assert epochs <= divided * replicas < epochs + replicas


@given(st.integers(1, 4096))
def test_scale_rules(replicas):
    assert scaling.scale_factor("none", replicas) == 1
    assert scaling.scale_factor("linear", replicas) == replicas
    assert scaling.scale_factor("sqrt", replicas) ** 2 == pytest.approx(replicas)


@given(st.floats(1e-6, 10), st.integers(1, 4096), st.integers(1, 10_000))
def test_warm_up_starts_at_the_one_replica_rate_and_never_overshoots(rate, replicas, warmup_steps):
    options = {"warmup_steps": warmup_steps, "base_rate": rate, "scaled_rate": rate * replicas}
    assert scaling.warmup_rate(0, **options) == rate
    assert scaling.warmup_rate(warmup_steps, **options) == rate * replicas
    rates = [scaling.warmup_rate(step, **options) for step in range(0, warmup_steps + 1, max(1, warmup_steps // 50))]
    assert rates == sorted(rates)


@given(st.sampled_from(sorted(scaling.SCHEDULE_DEFAULTS)), st.integers(1, 500), st.integers(0, 100))
def test_schedules_stay_between_nothing_and_the_highest_rate(kind, total_steps, warmup_steps):
    for step in range(0, total_steps + 5):
        found = scaling.schedule_rate(
            step, kind=kind, rate=0.5, warmup_steps=min(warmup_steps, total_steps - 1), total_steps=total_steps
        )
        assert -1e-12 <= found <= 0.5 + 1e-12


def test_schedules_end_where_they_say():
    end: dict[str, Any] = {"warmup_steps": 10, "total_steps": 110, "rate": 1.0}
    assert scaling.schedule_rate(110, kind="cosine", **end) == pytest.approx(0)
    assert scaling.schedule_rate(110, kind="polynomial", args={"final_factor": 0.1}, **end) == pytest.approx(0.1)
    assert scaling.schedule_rate(60, kind="polynomial", **end) == pytest.approx(0.5)
    steps = {"boundaries_steps": [30, 60], "factor": 0.1}
    assert [scaling.schedule_rate(s, kind="step", args=steps, **end) for s in (29, 30, 60)] == pytest.approx(
        [1, 0.1, 0.01]
    )
    assert scaling.schedule_rate(33, kind="one_cycle", **end) == pytest.approx(1.0)


@given(st.integers(1, 100_000))
def test_steps_per_execution_leaves_ten_calls_an_epoch(num_steps):
    chosen = scaling.steps_per_execution(num_steps)
    assert 1 <= chosen <= 20
    assert chosen == 1 or num_steps / chosen >= 10
