"""`hvdtrain export` and `model.initial_weights`; what was exported is loaded where hvdtrain cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from hvdtrain import export as exports
from hvdtrain.config import Config
from hvdtrain.errors import ConfigError, NotFoundError, UserCodeError
from hvdtrain.facts import assumed_facts
from hvdtrain.plan import make_plan
from hvdtrain.prepare import new_run, prepare
from hvdtrain.train import checkpoint, initial_weights, trainer
from hvdtrain.train import job as jobs
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.console import Console
from hvdtrain.train.export import export
from hvdtrain.workshop.data import digits
from tests.harness import resume_points
from tests.workdir import environment

DIGITS: dict[str, Any] = {
    "name": "digits",
    "model": {"source": "hvdtrain.workshop.models:digits_cnn"},
    "data": {"source": "hvdtrain.workshop.data:digits"},
    "training": {"epochs": 1, "global_batch_size": 256},
    "optimizer": {"name": "sgd", "learning_rate": 0.05, "schedule": "cosine", "args": {"use_ema": True}},
    "launch": {"num_ranks": 1, "strategy": "horovod"},
}

# Run where neither hvdtrain nor Horovod can be imported.
ALONE = """
import json, sys
sys.modules["hvdtrain"] = sys.modules["horovod"] = None
import keras, numpy as np, tensorflow as tf
x = np.load("x.npy")
model = keras.saving.load_model("out/model.keras")
artifact = tf.saved_model.load("out/saved_model")
served = artifact.serve(x)
again = keras.models.model_from_json(model.to_json())
again.load_weights("out/model.weights.h5")
np.savez("y.npz", keras=model(x), savedmodel=served, weights=again(x))
assert not [name for name in sys.modules if name.startswith(("hvdtrain.", "horovod."))]
"""

SYNC_NORM = """
import hvdtrain.keras as hk
import keras


def model():
    layers = [keras.layers.Flatten(), hk.SyncBatchNormalization(), keras.layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.layers.Input((8, 8, 1)), *layers])
"""


def job_in(folder: Path, **blocks: dict[str, Any]) -> jobs.Job:
    config = DIGITS | {key: {**DIGITS[key], **values} for key, values in blocks.items()}
    (folder / "c.yaml").write_text(json.dumps(config))
    run = new_run(prepare(str(folder / "c.yaml"), assumed_facts()), folder / "runs")
    plan = make_plan(Config(**config), assumed_facts())
    return jobs.Job(plan, run, folder, SoloComm(), Console(None, has_bar=False))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> jobs.Job:
    job = job_in(tmp_path_factory.mktemp("trained"))
    trainer.train(job)
    return job


def final_weights(job: jobs.Job) -> list[np.ndarray]:
    """What training ended with, by another way than the export's: the moving averages in the last checkpoint."""
    found, _ = checkpoint.load_newest(job.run.checkpoints)
    assert found is not None
    return [array for name, array in found.arrays.items() if name.startswith("optimizer/") and "_average" in name]


def test_exports_load_without_hvdtrain_and_hold_the_final_weights(trained, tmp_path):
    for kind, name in exports.NAMES.items():
        done = export(trained, kind=kind, output=tmp_path / "out" / name)
        assert done["step"] == 5
        assert done["notes"] == []
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "alone.py").write_text(ALONE)
    environ = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run([sys.executable, "alone.py"], cwd=tmp_path, env=environ, check=True)
    values = np.load(tmp_path / "y.npz")
    np.testing.assert_allclose(values["keras"], values["savedmodel"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values["keras"], values["weights"], rtol=1e-6)
    model = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert not getattr(model, "compiled", False), "no schedule of ours may be needed"
    averages = final_weights(trained)
    assert len(averages) == len(model.trainable_variables)
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(variable, average)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(exports.NAMES.values())
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    (_, (x_test, y_test)) = digits()
    expected = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    assert trainer.evaluate(trained)["metrics"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.thorough
def test_synchronised_batch_norm_is_exported_as_keras_own(tmp_path):
    (tmp_path / "my_code.py").write_text(SYNC_NORM)
    job = job_in(tmp_path, model={"source": "my_code:model"})
    trainer.train(job)
    done = export(job, kind="keras", output=tmp_path / "model.keras")
    assert done["notes"] == []
    load = (
        "import sys; sys.modules['hvdtrain'] = None; import keras; "
        "print([type(layer).__name__ for layer in keras.saving.load_model('model.keras').layers])"
    )
    shown = subprocess.run([sys.executable, "-c", load], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'BatchNormalization'" in shown.stdout


def test_a_layer_of_ones_own_is_named(tmp_path):
    job = resume_points.job_of(resume_points.plan_of("adam", None), tmp_path)
    trainer.train(job)
    done = export(job, kind="keras", output=tmp_path / "model.keras")
    assert "tests.harness.watched.UnseededNoise" in done["notes"][0]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("keras", "there.keras", "replace it with --force"),
        ("keras", "model.h5", "must end in .keras"),
        ("weights", "model.keras", "must end in .weights.h5"),
        ("savedmodel", "model.keras", "is a directory"),
    ],
)
def test_where_an_export_cannot_go(tmp_path, kind, name, said):
    (tmp_path / "there.keras").touch()
    with pytest.raises(ConfigError) as error:
        exports.check_target(tmp_path / name, kind, force=False)
    assert said in str(error.value)
    exports.check_target(tmp_path / "there.keras", "keras", force=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="no SavedModel"):
        exports.check_target(tmp_path / "mine", "savedmodel", force=True)


def test_the_command_line_exports_and_replaces_only_by_force(trained, tmp_path):
    def hvdtrain(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hvdtrain", "export", str(trained.run.path), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    first = hvdtrain("--output", "serving", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["format"] == "savedmodel"
    before = (tmp_path / "serving" / "saved_model.pb").stat().st_ino
    second = hvdtrain("--output", "serving")
    assert (second.returncode, "--force" in second.stderr) == (2, True)
    third = hvdtrain("--output", "serving", "--force")
    assert third.returncode == 0, third.stderr
    assert (tmp_path / "serving" / "saved_model.pb").stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["serving"], "nothing temporary stays"


def test_a_run_without_a_checkpoint_cannot_be_exported(tmp_path):
    with pytest.raises(NotFoundError, match="no checkpoint yet"):
        export(job_in(tmp_path), kind="keras", output=tmp_path / "model.keras")


# -- initial weights ----------------------------------------------------------------------------


def started_with(folder: Path, given: str, **model: Any) -> keras.Model:
    job = job_in(folder, model={"initial_weights": given, **model})
    _, model_ = jobs.prepare(job)
    initial_weights.load(job, model_)
    return model_


@pytest.mark.parametrize("kind", ["keras", "weights", "run", "checkpoint"])
def test_training_begins_with_the_weights_of_another(trained, tmp_path, kind):
    if kind in ("keras", "weights"):
        given = exports.NAMES[kind]  # beside the configuration
        export(trained, kind=kind, output=tmp_path / given)
        expected = keras.saving.load_model(tmp_path / given).get_weights() if kind == "keras" else None
    else:
        newest = checkpoint.checkpoints(trained.run.checkpoints)[-1]
        given = str(trained.run.path if kind == "run" else newest)
        expected = [array for name, array in checkpoint.load(newest).arrays.items() if name.startswith("model/")]
    model = started_with(tmp_path, given)
    assert int(model.optimizer.iterations) == 0
    if expected is not None:
        assert sorted(map(bits, model.get_weights())) == sorted(map(bits, expected))


def bits(array: Any) -> bytes:
    return np.asarray(array).tobytes()


def test_the_weights_of_a_compiled_model_leave_the_optimizer_alone(tmp_path):
    model = started_with(tmp_path, save_compiled(tmp_path))
    assert int(model.optimizer.iterations) == 0


def save_compiled(folder: Path) -> str:
    model = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(digits_model()))
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(77)
    model.save(folder / "compiled.keras")
    return "compiled.keras"


def digits_model() -> keras.Model:
    from hvdtrain.workshop.models import digits_cnn

    return digits_cnn()


def test_weights_that_do_not_fit_are_refused_before_training(trained, tmp_path):
    export(trained, kind="weights", output=tmp_path / "w.weights.h5")
    with pytest.raises(UserCodeError) as error:
        started_with(tmp_path, "w.weights.h5", args={"num_classes": 12})
    assert "(128, 10) in the file and (128, 12) in the model" in str(error.value)
    with pytest.raises(UserCodeError) as error:
        started_with(tmp_path, str(trained.run.path), args={"num_classes": 12})
    assert "(128, 10) in the checkpoint and (128, 12) in the model" in str(error.value)
    with pytest.raises(NotFoundError, match="does not exist"):
        started_with(tmp_path, "nothing.keras")
    (tmp_path / "noise.keras").write_bytes(b"noise")
    with pytest.raises(UserCodeError, match="does not fit the model"):
        started_with(tmp_path, "noise.keras")
    (tmp_path / "some.txt").touch()
    with pytest.raises(UserCodeError, match=r"must be a \.keras"):
        started_with(tmp_path, "some.txt")
