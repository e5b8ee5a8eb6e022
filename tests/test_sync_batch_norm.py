"""SyncBatchNormalization on real ranks: the results of tests/ranks/sync_norm.py."""

import keras
import pytest

from hvdtrain.train.sync_batch_norm import SyncBatchNormalization, small_batch_hint
from tests.ranks.worlds import all_equal


def test_trajectory_and_statistics_are_those_of_one_process(results):
    found = results.of("sync_batch_norm")[0]  # SyncProof compares the ranks
    assert len(found) == 4
    for name, entry in found.items():
        assert entry["off"] < 1e-9, f"{name} is off by {entry['off']}"
        assert entry["plain_off"] > 1e-4, f"{name}: plain BatchNormalization must be caught"


@pytest.mark.travel
def test_replicas_with_unequal_batches_still_equal_one_process(results):
    for value in results.of("sync_batch_norm_uneven"):
        assert value["off"] < 1e-9


def test_many_layers_do_not_deadlock(results):
    assert all_equal(results.of("many_sync_batch_norms"))


def test_a_large_mean_does_not_swallow_the_variance(results):
    for value in results.of("sync_batch_norm_large_mean"):
        assert value["off"] < 1e-3


def test_in_inference_and_alone_it_is_kerass_own(results):
    for value in results.of("sync_batch_norm_in_inference"):
        assert value == {"same": [True] * 4, "class": "SyncBatchNormalization", "config": True}


@pytest.mark.parametrize(
    ("norm", "batch_size", "says"),
    [
        (keras.layers.BatchNormalization(), 8, True),
        (keras.layers.BatchNormalization(), 16, False),
        (keras.layers.BatchNormalization(trainable=False), 8, False),
        (SyncBatchNormalization(), 8, False),
        (keras.layers.GroupNormalization(4), 8, False),
    ],
)
def test_few_examples_call_for_another_layer(norm, batch_size, says):
    model = keras.Sequential([keras.layers.Input((4, 8)), norm])
    hint = small_batch_hint(model, batch_size)
    assert bool(hint) == says
    if hint:
        assert "SyncBatchNormalization" in hint
        assert "GroupNormalization" in hint
        assert "8 examples" in hint
