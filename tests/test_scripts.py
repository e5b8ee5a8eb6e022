"""Scripts and runs started for real: what one rank cannot go on with ends all, and data of every form train alike."""

import json
from pathlib import Path

import pytest

from hvdtrain.rundir import find_runs
from tests.workdir import Workdir, records

pytestmark = pytest.mark.beside

# What argv[1] names goes wrong on one rank only.
SCRIPT = """
import sys
import hvdtrain.keras as hk
world = hk.init()
import keras, numpy as np

fault = sys.argv[1]
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def batches():
    for begin in range(0, 56 if fault == "short" else 64, 8):
        yield x[begin : begin + 8], x[begin : begin + 8, :1]


def bad_day(*args, **options):
    if world.rank == 1:
        raise ArithmeticError("a bad day")


own = {
    "epoch": lambda: keras.callbacks.LambdaCallback(on_epoch_end=bad_day),
    "batch": lambda: keras.callbacks.LambdaCallback(on_train_batch_end=bad_day),
    "writer": lambda: keras.callbacks.CSVLogger("no/such/folder/log.csv"),
    "short": lambda: keras.callbacks.History(),
}[fault]()
model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
model.compile(hk.DistributedOptimizer(keras.optimizers.SGD(0.01)), "mse")
model.fit(hk.shard(batches, length=8), epochs=3, callbacks=hk.callbacks([own]), verbose=world.verbose)
print("got to the end")
"""


@pytest.mark.parametrize(
    ("fault", "code", "expected"),
    [
        ("epoch", 1, "[rank 1] Traceback"),
        ("batch", 1, "[rank 1] Traceback"),
        ("writer", 1, "[rank 0] Traceback"),
        ("short", 2, "hvdtrain: the data ended before their stated length: rank 1 needs 4 of 8 elements in an epoch"),
    ],
)
def test_what_fails_on_one_rank_ends_all(tmp_path, require_horovod, fault, code, expected):
    (tmp_path / "s.py").write_text(SCRIPT)
    command = ("run", "--ranks", "2", "--", "python", "s.py", fault)
    outcome = Workdir(tmp_path).hvdtrain(*command)
    assert outcome.code == code, outcome.out + outcome.err
    said = outcome.out + outcome.err
    assert f"\n{expected}" in said
    assert "got to the end" not in said


# -- the same data in other forms ---------------------------------------------------------------

OTHER_CODE = """
import keras
import numpy as np
import tensorflow as tf

random = np.random.default_rng(5)
x = {name: random.normal(size=(105, 3)).astype("float32") for name in ("left", "right")}
y = (x["left"][:, 0] + x["right"][:, 1] > 0).astype("int64")
weights = random.random(105).astype("float32")
one = {name: array[:1] for name, array in x.items()}, y[:1]


def arrays():
    return (x, y, weights), one


def stream():
    everything = tf.data.Dataset.from_tensor_slices((x, y, weights))
    return everything.filter(lambda *_: True), tf.data.Dataset.from_tensor_slices(one)


def short_stream():
    return stream()[0].take(70), None


def model():
    inputs = {name: keras.layers.Input((3,), name=name) for name in ("left", "right")}
    hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()(list(inputs.values())))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
"""


def other(path: Path, source: str) -> Workdir:
    """A folder whose data are inputs by name with weights; 33 of 105 a step, 6 in the last, 1 to evaluate on."""
    folder = Workdir(
        path,
        model={"source": "other_code:model"},
        data={"source": f"other_code:{source}", "num_examples": 105, "remainder": "pad"},
        training={"epochs": 3, "global_batch_size": 33},
    )
    (path / "other_code.py").write_text(OTHER_CODE)
    return folder


@pytest.mark.parametrize("source", ["arrays", pytest.param("stream", marks=pytest.mark.thorough)])
def test_uneven_weighted_inputs_by_name_train_as_on_one_rank(tmp_path, require_horovod, source):
    folder = other(tmp_path, source)
    epochs = []
    for ranks in ("2", "1"):
        outcome = folder.hvdtrain("run", "demo.yaml", "--ranks", ranks, "--runs", f"runs_{ranks}")
        assert outcome.code == 0, outcome.err
        assert "6 in the last one (pad)" in outcome.err
        epochs.append(records(find_runs(tmp_path / f"runs_{ranks}")[0], "epoch"))
    assert [epoch["step"] for epoch in epochs[0]] == [4, 8, 12]
    for two, one in zip(*epochs, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), (name, json.dumps(two), json.dumps(one))
    assert epochs[0][-1]["loss"] < epochs[0][0]["loss"]


def test_a_stream_that_ends_before_its_stated_length_is_refused(tmp_path, require_horovod):
    outcome = other(tmp_path, "short_stream").hvdtrain("run", "demo.yaml")
    assert outcome.code == 2, outcome.err
    assert "the data ended before their stated length: data.num_examples is 105" in outcome.err
    assert "Traceback" not in outcome.err
