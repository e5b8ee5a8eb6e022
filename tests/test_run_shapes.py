"""Other shapes of a run: divided, in steps, mirrored, without Horovod, and a user's own script."""

import json
import subprocess
import sys

import pytest

from tests.test_cli import HIDE
from tests.workdir import (
    TIMEOUT_S,
    Workdir,
    environment,
    mpirun,
    records,
)

pytestmark = pytest.mark.beside


def test_divide_shows_each_rank_all_data_for_fewer_epochs(tmp_path, require_horovod):
    folder = Workdir(tmp_path, data={"epoch_splitting": "divide"})
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 0, outcome.err
    assert "divide: ceil(5 / 2 replicas)" in outcome.err
    assert [record["step"] for record in records(folder.run, "epoch")] == [12, 24, 36], "192 / 16 steps an epoch"
    assert folder.summary()["metrics"]["val_accuracy"] > 0.8


@pytest.mark.thorough
def test_users_dataset_in_steps_with_accumulation_is_deterministic(tmp_path, require_horovod):
    """10 steps are an epoch of 6 and one of 4. The same bits twice; then one rank's pipeline breaks."""
    training = {"epochs": None, "steps": 10, "gradient_accumulation_steps": 2, "deterministic": True}
    folder = Workdir(tmp_path, data={"source": "my_code:dataset"}, training=training)
    digests = []
    for _ in range(2):
        outcome = folder.hvdtrain("run", "demo.yaml")
        assert outcome.code == 0, outcome.err
        assert [record["step"] for record in records(folder.run, "epoch")] == [6, 10]
        digests.append(folder.summary()["digest"])
    assert digests[0] == digests[1]

    folder.fault("pipeline")
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 1, outcome.err
    assert "[rank 1] Traceback" in outcome.err
    assert "picture 101 is damaged" in outcome.err
    assert "rank 1 failed first" in outcome.err
    assert "-----" not in outcome.err
    folder.assert_nothing_is_left()


def test_mirrored_trains_the_same_model_as_two_ranks(tmp_path, require_horovod):
    """The same examples in the same global batches from the same weights: only the order of additions differs."""
    folder = Workdir(
        tmp_path,
        model={"source": "hvdtrain.workshop.models:fully_connected", "args": {"input_shape": [8, 8, 1]}},
        data={"source": "hvdtrain.workshop.data:digits", "num_examples": None},
        training={"epochs": 6, "global_batch_size": 64},
        optimizer={"learning_rate": 0.1},
    )
    results = []
    mirrored = ("--strategy", "mirrored", "--set", "launch.num_ranks=1", "--set", "launch.num_devices=2")
    for options in ((), mirrored):
        outcome = folder.hvdtrain("run", "demo.yaml", *options)
        assert outcome.code == 0, outcome.err
        results.append(folder.summary())
    ranks, devices = results
    assert (ranks["strategy"], devices["strategy"]) == ("horovod", "mirrored")
    assert (ranks["num_replicas"], devices["num_replicas"], devices["num_ranks"]) == (2, 2, 1)
    assert ranks["metrics"]["val_accuracy"] > 0.9
    assert devices["metrics"]["val_accuracy"] == pytest.approx(ranks["metrics"]["val_accuracy"], abs=0.015)


def test_without_horovod_a_run_falls_back_loudly(tmp_path):
    folder = Workdir(tmp_path, launch={"num_ranks": None})
    outcome = folder.call(
        sys.executable,
        "-c",
        f"import sys; {HIDE['horovod']}; from hvdtrain.cli import main; main()",
        "run",
        "demo.yaml",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("warning: falling back to MirroredStrategy on this machine") == 1
    found = json.loads(folder.run.environment.read_text())
    assert found["strategy"] == "mirrored"
    assert "falling back" in found["warnings"][0]
    assert folder.summary()["metrics"]["val_accuracy"] > 0.8


# -- a user's own script ------------------------------------------------------------------------

SCRIPT = """
import hashlib, json
from pathlib import Path
import hvdtrain.keras as hk
world = hk.init()
import keras, numpy as np, tensorflow as tf

random = np.random.default_rng(0)
x = random.normal(size=(96, 6)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(96, seed=1).batch(8)
keras.utils.set_random_seed(world.rank)
model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(hk.DistributedOptimizer(keras.optimizers.Adam(hk.scaled_learning_rate(0.01))), loss, metrics=["accuracy"])
csv = keras.callbacks.CSVLogger(f"log_{world.rank}.csv")
callbacks = hk.callbacks([csv], checkpoint_dir=f"checkpoints_{world.rank}")
history = model.fit(hk.shard(data), epochs=2, callbacks=callbacks, verbose=world.verbose)
weights = hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()
values = {"rank": world.rank, "size": world.size, "weights": weights, "loss": history.history["loss"]}
Path(f"result_{world.rank}.json").write_text(json.dumps(values))
"""

STARTS = {
    "mpirun": lambda: mpirun(2, "python", "s.py"),
    "horovodrun": lambda: ["horovodrun", "--gloo", "-np", "2", "python", "s.py"],
    "hvdtrain run": lambda: [sys.executable, "-m", "hvdtrain", "run", "--ranks", "2", "--", "python", "s.py"],
    "python": lambda: ["python", "s.py"],
}


@pytest.mark.parametrize("start", STARTS)
def test_a_script_of_the_users_own_trains_together(tmp_path, require_horovod, start):
    (tmp_path / "s.py").write_text(SCRIPT)
    size = 1 if start == "python" else 2
    command = STARTS[start]()
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    values = [json.loads((tmp_path / f"result_{rank}.json").read_text()) for rank in range(size)]
    assert [(value["rank"], value["size"]) for value in values] == [(rank, size) for rank in range(size)]
    assert len({value["weights"] for value in values}) == 1
    assert len({str(value["loss"]) for value in values}) == 1
    written = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("checkpoints", "log")))
    assert written == ["checkpoints_0", "log_0.csv"]


def test_a_script_that_fails_on_one_rank_ends_all(tmp_path, require_horovod):
    script = SCRIPT.replace("history =", "assert world.rank == 0, 'only rank 0 got here'\nhistory =")
    (tmp_path / "s.py").write_text(script)
    result = Workdir(tmp_path).call(sys.executable, "-m", "hvdtrain", "run", "--ranks", "2", "--", "python", "s.py")
    assert result.code == 1
    assert "[rank 1] Traceback" in result.err
    assert "AssertionError: only rank 0 got here" in result.err
    assert not list(tmp_path.glob("result_*"))
