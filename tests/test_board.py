"""What runs write for TensorBoard, read back from event files: two real ranks, a resumed run, and what goes wrong."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow as tf

from hvdtrain.metrics import read_records
from hvdtrain.train import events
from hvdtrain.train.board import EPOCHS, STEPS
from hvdtrain.train.events import Event, Summary
from tests.conftest import missing
from tests.workdir import Workdir

SLEEP_S = 0.02
MODEL = f"""
import os, time
import keras, tensorflow as tf

class Slow(keras.layers.Layer):
    def call(self, x, training=False):
        def wait(values):
            time.sleep({SLEEP_S} if os.environ.get("OMPI_COMM_WORLD_RANK") == "1" else 0)
            return values
        if not training:
            return x
        y = tf.numpy_function(wait, [x], tf.float32)
        y.set_shape(x.shape)
        return y

def build(units=16):
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(Slow()(inputs))
    hidden = keras.layers.Dense(units, activation="relu")(flat)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(hidden))
"""
CONFIG = """
name: seen
model: {source: "slow_model:build", args: {units: 24}}
data: {source: "hvdtrain.workshop.data:digits", augment: {rotation: 10.0}}
training: {epochs: 3, batch_size_per_replica: 32, steps_per_execution: 2}
"""
EVERYTHING = """
tensorboard: {scalars_every_steps: 6, histograms_every_epochs: 2, images: 4, graph: true, profile_steps: [5, 8]}
"""
STEPS_PER_EPOCH = 22
NO_TENSORBOARD = "import sys\nsys.modules['tensorboard'] = None\n"


@dataclass(frozen=True)
class Written:
    """A run's event files, read.

    Args:
        run: Its directory.
        said: What people were told.
    """

    run: Path
    said: str

    def events(self, name: str) -> list[Event]:
        found = []
        for path in sorted((self.run / "tensorboard" / name).glob(events.FILES)):
            found += [event for _, event in events.records(path.read_bytes())]
        return found

    def values(self, name: str) -> dict[str, list[tuple[int, Summary.Value]]]:
        found: dict[str, list[tuple[int, Summary.Value]]] = {}
        for event in self.events(name):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value))
        return found

    def scalars(self, name: str) -> dict[str, dict[int, float]]:
        return {
            tag: {step: value.simple_value for step, value in points}
            for tag, points in self.values(name).items()
            if points[0][1].WhichOneof("value") == "simple_value"
        }


def work_folder(place: Path, config: str) -> Workdir:
    folder = Workdir(place / "work")
    (folder.path / "slow_model.py").write_text(MODEL)
    (folder.path / "seen.yaml").write_text(config)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory, require_horovod) -> Written:
    """Three epochs of two ranks, the second of which sleeps in every step."""
    folder = work_folder(tmp_path_factory.mktemp("two_ranks"), CONFIG + EVERYTHING)
    outcome = folder.hvdtrain("run", "seen.yaml", "--ranks", "2")
    assert outcome.code == 0, outcome.err
    (run,) = folder.path.glob("runs/seen/*")
    return Written(run, outcome.err)


def test_rank_0_alone_writes_one_file_of_each_kind(written: Written):
    for name in (EPOCHS, STEPS):
        assert len(list((written.run / "tensorboard" / name).glob(events.FILES))) == 1
    assert "warning" not in written.said


def test_epochs_are_those_of_the_records(written: Written):
    found = written.scalars(EPOCHS)
    epochs = [record for record in read_records(written.run / "metrics.jsonl") if record["kind"] == "epoch"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        points = found[f"epoch/{name}"]
        assert list(points) == [22, 44, 66]
        assert list(points.values()) == pytest.approx([record[name] for record in epochs], rel=1e-6)


def test_steps_within_epochs(written: Written):
    found = written.scalars(STEPS)
    # The first execution is traced and not timed, so the first epoch's points come two steps later.
    expected = [8, 14, 20, 22, 28, 34, 40, 44, 50, 56, 62, 66]
    assert list(found["learning_rate"]) == expected
    assert list(found["running/loss"]) == [step for step in expected if step % STEPS_PER_EPOCH]
    for step, speed in found["speed/examples_per_s"].items():
        assert speed * found["speed/step_ms"][step] == pytest.approx(64 * 1000, rel=1e-5)
    assert all(value > 1000 * SLEEP_S for value in found["speed/step_ms"].values()), "the slow rank holds both up"


def test_who_waits_for_whom(written: Written):
    found = written.scalars(STEPS)
    assert list(found["speed/exposed_communication_ms"]) == list(found["speed/step_ms"])
    for step in (44, 66):
        waits = [found[f"exposed_communication_ms by rank/{rank:04d}"][step] for rank in (0, 1)]
        speeds = [found[f"examples_per_s by rank/{rank:04d}"][step] for rank in (0, 1)]
        assert waits[0] > 1000 * SLEEP_S / 2 > waits[1] >= 0
        assert speeds[0] == pytest.approx(speeds[1], rel=0.2), "in step they are equally fast"


def test_weights_pictures_graph_and_profile(written: Written):
    values = written.values(EPOCHS)
    histograms = {tag: points for tag, points in values.items() if tag.startswith("weights/")}
    assert len(histograms) == 4
    kernel = next(points for tag, points in histograms.items() if tag.endswith("dense/kernel"))
    assert [step for step, _ in kernel] == [22, 66]
    buckets = tf.make_ndarray(kernel[0][1].tensor)
    assert buckets.shape == (events.NUM_BUCKETS, 3)
    assert buckets[:, 2].sum() == 64 * 24
    assert [step for step, _ in values["inputs"]] == [0, 22, 44]
    assert [step for step, _ in values["mistakes"]] == [66]
    for tag in ("inputs", "mistakes"):
        image = values[tag][-1][1].image
        assert tf.io.decode_png(image.encoded_image_string).shape[:2] == (image.height, image.width)
    layers = json.loads(tf.make_ndarray(values["keras"][0][1].tensor).item())
    assert [layer["class_name"] for layer in layers["config"]["layers"]][1:] == ["Slow", "Flatten", "Dense", "Dense"]
    graphs = [event.graph_def for event in written.events(EPOCHS) if event.graph_def]
    operations = {node.op for node in tf.compat.v1.GraphDef.FromString(graphs[0]).node}
    assert {"MatMul", "Softmax"} <= operations
    assert list((written.run / "tensorboard" / EPOCHS / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_hyperparameters_and_how_it_ended(written: Written):
    if not events.has_tensorboard():
        missing("tensorboard", "TensorBoard is not installed")
    from tensorboard.plugins.hparams import api_pb2, metadata

    values = written.values(EPOCHS)
    (begin,) = [value for _, value in values[metadata.SESSION_START_INFO_TAG]]
    found = metadata.parse_session_start_info_plugin_data(begin.metadata.plugin_data.content).hparams
    assert found["model.args.units"].number_value == 24
    assert found["data.augment.rotation"].number_value == 10
    assert found["optimizer.name"].string_value == "sgd"
    assert found["training.deterministic"].bool_value is False
    assert "training.max_minutes" not in found, "null is no value"
    (end,) = [value for _, value in values[metadata.SESSION_END_INFO_TAG]]
    status = metadata.parse_session_end_info_plugin_data(end.metadata.plugin_data.content).status
    assert status == api_pb2.STATUS_SUCCESS


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Written:
    """One rank that is stopped within the first epoch, killed after some more steps as its file says, and goes on.

    The first start has no package tensorboard.
    """
    folder = work_folder(tmp_path_factory.mktemp("resumed"), CONFIG + "tensorboard: {scalars_every_steps: 2}\n")
    hidden = folder.path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(NO_TENSORBOARD)
    options = ("--ranks", "1", "--strategy", "single")
    limit = ("--set", "training.max_minutes=0.0001")
    start = ("env", f"PYTHONPATH={hidden}", sys.executable, "-m", "hvdtrain", "run", "seen.yaml")
    first = folder.call(*start, *options, *limit)
    assert first.code == 75, first.err
    (run,) = folder.path.glob("runs/seen/*")
    assert not [tag for tag in Written(run, "").values(EPOCHS) if tag.startswith(events.HPARAMS)]
    (path,) = (run / "tensorboard" / STEPS).glob(events.FILES)
    lost = events.EventFile(path.parent)
    lost.write(Event(step=40, summary=Summary(value=events.scalars({"running/loss": -1.0, "lost": 1.0}))))
    lost.close()
    path.write_bytes(path.read_bytes() + struct.pack("<Q", 1000) + b"torn")
    second = folder.hvdtrain("run", "seen.yaml", "--resume", run.name, *options)
    assert second.code == 0, second.err
    return Written(run, first.err)


def test_without_the_package_training_goes_on_and_says_so_once(resumed: Written):
    assert resumed.said.count("the package tensorboard is not installed here") == 1


def test_a_resumed_run_has_no_point_twice_and_none_that_was_lost(resumed: Written):
    for name in (EPOCHS, STEPS):
        for tag, points in resumed.values(name).items():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)), tag
    found = resumed.scalars(STEPS)
    assert "lost" not in found
    assert found["running/loss"][40] > 0
    start = next(record for record in read_records(resumed.run / "metrics.jsonl") if record["kind"] == "checkpoint")
    first_step = int(start["path"].removeprefix("step_"))
    (session,) = [event for event in resumed.events(STEPS) if event.HasField("session_log")]
    assert session.step == first_step + 1, "a TensorBoard that is looking drops what came after it"
    assert list(resumed.scalars(EPOCHS)["epoch/loss"]) == [44, 88, 132]


def test_a_resumed_run_has_its_hyperparameters_once(resumed: Written):
    tags = [tag for tag in resumed.values(EPOCHS) if tag.startswith(events.HPARAMS)]
    assert len(tags) == 2 * events.has_tensorboard()
