"""The callback that saves, with one rank: what it copies, when it stops the training, and what it refuses."""

from __future__ import annotations

import os
import time

import keras
import numpy as np
import pytest

import hvdtrain.keras as hk
from hvdtrain.errors import NoSpaceError, UserCodeError
from hvdtrain.train import checkpoint
from hvdtrain.train.callbacks import Saver
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.compat import steps_taken
from hvdtrain.train.state import capture, named_variables, restore
from hvdtrain.train.world import World
from tests.test_background import small_disk  # noqa: F401

EPOCHS, STEPS = 2, 4


def compiled(dtype: str = "float32", width: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(width, dtype=dtype)])
    model.compile(keras.optimizers.Adam(0.1), loss="mse", jit_compile=False)
    return model


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback) -> None:
    random = np.random.default_rng(0)
    width = model.output_shape[-1]
    x, y = random.random((4 * STEPS, 5)), random.random((4 * STEPS, width))
    model.fit(x, y, batch_size=4, epochs=EPOCHS, verbose=0, callbacks=list(callbacks))


def bits(model: keras.Model) -> dict[str, bytes]:
    return {name: np.asarray(variable.value).tobytes() for name, variable in named_variables(model).items()}


def test_every_checkpoint_holds_its_own_step_though_training_goes_on(tmp_path, monkeypatch):
    """The disk is slower than the steps: what is written was copied, and is not what the next step makes of it."""
    real = os.fsync

    def slow(descriptor):
        time.sleep(0.02)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    model = compiled()
    seen = {}

    def note(batch, logs):
        seen[steps_taken(model)] = bits(model)

    saver = Saver(SoloComm(), tmp_path, every_steps=1, keep=100)
    fit(model, keras.callbacks.LambdaCallback(on_train_batch_end=note), saver)
    found = [checkpoint.load(path) for path in checkpoint.checkpoints(tmp_path)]
    assert [one.step for one in found] == list(range(1, EPOCHS * STEPS + 1)), "the last one too: fit waits for it"
    for one in found:
        assert {name: one.arrays[name].tobytes() for name in seen[one.step]} == seen[one.step]
    assert [one.position for one in found] == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


def test_a_full_disk_stops_the_training(small_disk):  # noqa: F811
    """The first save does not fit; the training ends with one of the next steps, not at the end."""
    model = compiled(width=4000)
    with pytest.raises(NoSpaceError, match="no space left for the checkpoint of step 1"):
        fit(model, Saver(SoloComm(), small_disk, every_steps=1))
    assert steps_taken(model) <= 2
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_at_the_last_save_is_an_error_of_the_fit(small_disk):  # noqa: F811
    with pytest.raises(NoSpaceError, match="step 8"):
        fit(compiled(width=4000), Saver(SoloComm(), small_disk, every_epochs=None))


def test_a_new_training_does_not_hide_behind_the_checkpoints_of_another(tmp_path):
    fit(compiled(), Saver(SoloComm(), tmp_path))
    with pytest.raises(UserCodeError, match=r"step_00000008 is of a later step than this training starts at \(0\)"):
        fit(compiled(), Saver(SoloComm(), tmp_path))
    for path in checkpoint.checkpoints(tmp_path):
        (path / "state.json").unlink()
    fit(compiled(), Saver(SoloComm(), tmp_path, every_steps=1))
    assert checkpoint.load_newest(tmp_path)[0] is not None


def test_a_second_fit_with_the_same_callback_is_saved_too(tmp_path):
    model, saver = compiled(), Saver(SoloComm(), tmp_path)
    fit(model, saver)
    fit(model, saver)
    found, _ = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found.step == 2 * EPOCHS * STEPS


def test_a_script_of_your_own_is_told_what_was_passed_over(alone, tmp_path):
    fit(compiled(), *hk.callbacks(checkpoint_dir=tmp_path))
    (tmp_path / "step_00000008" / "arrays.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"damaged checkpoint passed over: .*step_00000008: arrays.npz"):
        callbacks = hk.callbacks(checkpoint_dir=tmp_path, resume=True)
    model = compiled()
    assert hk.initial_epoch(tmp_path) == 1
    fit(model, *callbacks)
    assert steps_taken(model) == STEPS + EPOCHS * STEPS, "it went on from the one before"


@pytest.fixture
def alone(monkeypatch):
    ranks = {"rank": 0, "size": 1, "local_rank": 0, "local_size": 1}
    world = World(**ranks, host="here", cores=(0,), gpu=None, reduction="one process", comm=SoloComm())
    monkeypatch.setattr(hk, "_world", world)


def stopped_after_two_steps(folder):
    """Train on arrays until the second step of the first epoch is done and saved."""
    x, y = np.ones((40, 5)), np.ones((40, 3))
    data = hk.shard((x, y), batch_size=4)
    model = compiled()
    stop = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(model, "stop_training", batch == 1)
    )
    model.fit(data, epochs=1, verbose=0, callbacks=hk.callbacks([stop], data=data, checkpoint_dir=folder))


def go_on_with(folder, num_examples=40, batch_size=4, seed=0):
    data = hk.shard((np.ones((num_examples, 5)), np.ones((num_examples, 3))), batch_size=batch_size, seed=seed)
    model = compiled()
    callbacks = hk.callbacks(data=data, checkpoint_dir=folder, resume=True)
    model.fit(data, epochs=1, initial_epoch=hk.initial_epoch(folder), verbose=0, callbacks=callbacks)
    return steps_taken(model)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"batch_size": 5}, "steps in an epoch 10 -> 8; examples in a step 4 -> 5"),
        ({"seed": 1}, "2 steps into it, .*: seed 0 -> 1. Go on with those of the first start, or move"),
        ({"num_examples": 42}, "examples 40 -> 42"),
    ],
)
def test_an_epoch_does_not_go_on_with_other_batches(alone, tmp_path, other, words):
    stopped_after_two_steps(tmp_path)
    with pytest.raises(UserCodeError, match=words):
        go_on_with(tmp_path, **other)
    assert go_on_with(tmp_path) == 10


def test_a_new_epoch_may_begin_with_other_batches(alone, tmp_path):
    stopped_after_two_steps(tmp_path)
    go_on_with(tmp_path)
    go_on_with(tmp_path, batch_size=5, seed=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: hk.shard((np.ones((8, 1)), np.ones(8)), batch_size=0),
        lambda: hk.shard((np.ones((8, 1)), np.ones(8)), batch_size="2"),  # type: ignore[arg-type]
        lambda: hk.shard((np.ones((8, 1)), np.ones(8)), batch_size=2, seed=-1),
        lambda: hk.evaluation_part((np.ones((8, 1)), np.ones(8)), batch_size=True),
        lambda: hk.callbacks(save_every_steps=0),
        lambda: hk.callbacks(check_every_steps=-1),
        lambda: hk.callbacks(keep=0),
        lambda: hk.scaled_learning_rate(0.1, warmup_steps=-1),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(alone, call):
    with pytest.raises(UserCodeError, match=r"must be a whole number, [01] or more; got "):
        call()


def test_weights_of_bfloat16_come_back(tmp_path):
    model = compiled("bfloat16")
    fit(model, Saver(SoloComm(), tmp_path))
    other = compiled("bfloat16")
    found, _ = checkpoint.load_newest(tmp_path)
    assert found is not None
    other.optimizer.build(other.trainable_variables)
    restore(other, found)
    assert bits(other) == bits(model)


def test_a_snapshot_is_a_copy():
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    snapshot = capture(model, step=0, state={})
    before = {name: array.tobytes() for name, array in snapshot.arrays.items()}
    fit(model)
    assert {name: array.tobytes() for name, array in snapshot.arrays.items()} == before
