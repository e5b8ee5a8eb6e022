"""The worker's parts that need TensorFlow but no second rank."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain import scaling
from hvdtrain.errors import UserCodeError
from hvdtrain.train import sync
from hvdtrain.train.callbacks.global_metrics import is_summable
from hvdtrain.train.callbacks.setup import switch_off_xla
from hvdtrain.train.data import evaluation_part
from hvdtrain.train.deal import shard, user_dataset_batches
from hvdtrain.train.schedule import ScaledSchedule


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(scaling.SCHEDULE_DEFAULTS)), st.integers(1, 300), st.integers(0, 50), st.floats(1e-4, 10)
)  # fmt: skip
def test_the_keras_schedule_equals_the_plain_arithmetic(kind, total_steps, warmup_steps, rate):
    warmup_steps = min(warmup_steps, total_steps - 1)
    args = dict(scaling.SCHEDULE_DEFAULTS[kind])
    if kind == "step":
        args["boundaries_steps"] = [total_steps // 3, total_steps // 2]
    schedule = ScaledSchedule(kind, rate / 4, rate, warmup_steps, total_steps, args)
    for step in {0, warmup_steps, total_steps // 2, total_steps - 1, total_steps}:
        if step < warmup_steps:
            expected = scaling.warmup_rate(step, warmup_steps=warmup_steps, base_rate=rate / 4, scaled_rate=rate)
        else:
            options = {"kind": kind, "rate": rate, "warmup_steps": warmup_steps, "total_steps": total_steps}
            expected = scaling.schedule_rate(step, args=args, **options)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=rate * 1e-5)


def test_step_0_of_a_warm_up_is_the_one_replica_rate_to_1_ulp():
    for rate, replicas in ((0.1, 8), (0.01, 27360), (1.0, 3), (3e-4, 512)):
        schedule = ScaledSchedule("cosine", rate, rate * replicas, 100, 1000, {"final_factor": 0.0})
        assert abs(float(schedule(0)) - rate) <= np.spacing(np.float32(rate))


def test_a_schedule_can_be_saved_and_loaded():
    schedule = ScaledSchedule("step", 0.1, 0.4, 5, 50, {"boundaries_steps": [20], "factor": 0.5})
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(again(step)) for step in (0, 10, 30)] == [float(schedule(step)) for step in (0, 10, 30)]


def test_differences_are_named():
    names = ["a/kernel", "a/bias"]
    assert sync.find_differences(names, [["1", "2"]] * 4) == []
    assert sync.find_differences(names, [["1", "2"], ["1", "2"], ["9", "2"]]) == ["a/kernel differs on rank 2"]
    assert sync.find_differences(names, [["0", "2"], ["1", "2"], ["1", "2"], ["9", "2"]]) == [
        "a/kernel differs between ranks 0 and 1 and 2 and 3"
    ]
    assert sync.find_differences(names, [["1", "2"], ["1"]]) == [
        "the number of variables differs (rank 0: 2, rank 1: 1)"
    ]


def test_finite_is_told_from_not_finite_even_where_the_sum_overflows():
    assert sync.is_finite(np.full(10, 3e38, "float32"))
    assert sync.is_finite(np.array([1, 2]))
    for bad in (np.nan, np.inf, -np.inf):
        assert not sync.is_finite(np.array([1.0, bad, 2.0], "float32"))
    assert not sync.is_finite(np.array([np.inf, -np.inf], "float32"))


def test_a_digest_sees_every_bit_and_shape_does_not_matter():
    array = np.arange(6, dtype="float32").reshape(2, 3)
    other = array.copy()
    other.view(np.uint32)[1, 2] ^= 1
    assert sync.digest(array) == sync.digest(array.reshape(-1)) != sync.digest(other)
    assert sync.digest(np.float32(1.0)) == sync.digest(np.array(1.0, "float32"))


def test_seeds_differ_by_rank_and_rank_0_keeps_its_own():
    seeds = [sync.folded_seed(1234, rank) for rank in range(1000)]
    assert seeds[0] == 1234
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_xla_is_switched_off_where_a_gpu_would_turn_it_on():
    """Keras turns `jit_compile="auto"` into True where the model supports it; the device list is made to say so."""

    class OnGpu(keras.Sequential):
        def _resolve_auto_jit_compile(self):
            return True

    model = OnGpu([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    assert model.jit_compile is True
    assert switch_off_xla(model) is True
    assert model.jit_compile is False
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)


def test_xla_asked_for_by_name_is_refused():
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model._resolve_auto_jit_compile = lambda: False
    model.compile(optimizer="sgd", loss="mse", jit_compile=True)
    with pytest.raises(UserCodeError, match="cannot sit inside an XLA program"):
        switch_off_xla(model)


def test_keras_metrics_are_summed_and_a_users_own_is_not():
    class Mine(keras.metrics.Metric):
        def result(self):
            return tf.constant(0.0)

    assert is_summable(keras.metrics.AUC())
    assert is_summable(keras.metrics.RootMeanSquaredError())
    assert not is_summable(Mine())


def test_a_users_dataset_is_not_autotuned_unless_its_options_say_so():
    options = tf.data.Options()
    options.threading.private_threadpool_size = 3
    dataset = tf.data.Dataset.range(12).with_options(options)
    options.autotune.enabled = True
    tuned = tf.data.Dataset.range(12).with_options(options)
    for users, expected in ((dataset, False), (tuned, True)):
        made = [
            shard(users, rank=0, size=1),
            shard(users, rank=1, size=2),
            user_dataset_batches(users, global_batch_size=4, steps=3, num_examples=12, rank=0, size=2),
            user_dataset_batches(users, global_batch_size=5, steps=3, num_examples=12, rank=0, size=2),
            evaluation_part(users, batch_size=4, rank=0, size=2).batches,
        ]
        assert [one.options().autotune.enabled for one in made] == [expected] * 5
        assert {one.options().threading.private_threadpool_size for one in made} == {3}
