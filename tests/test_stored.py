"""Data that stay in files: image folders and TFRecords train to the bits of the same data as arrays."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import SoloComm
from hvdtrain.train.data import EpochBatches, array_batches, count, evaluation_part
from hvdtrain.train.deal import batch_digest
from hvdtrain.train.failure import explained
from hvdtrain.train.order import Order
from hvdtrain.train.records import tfrecords
from hvdtrain.train.stored import Mapped, StoredArray, image_folder, require_same_classes, stored_arrays
from hvdtrain.train.user_code import first_examples
from tests.workdir import Workdir

pytestmark = pytest.mark.beside

SHAPE = (5, 4, 1)
FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def pictures(num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(256, size=(num_examples, *SHAPE), dtype=np.uint8), np.arange(num_examples) % 3


def write_folder(place: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = place / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.png").write_bytes(tf.io.encode_png(image).numpy())
    return place


def write_records(place: Path, images: np.ndarray, labels: np.ndarray, num_files: int = 3) -> str:
    place.mkdir(parents=True, exist_ok=True)
    for file in range(num_files):
        with tf.io.TFRecordWriter(str(place / f"part-{file}.tfrecord")) as writer:
            for image, label in list(zip(images, labels, strict=True))[file::num_files]:
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return str(place / "part-*.tfrecord")


def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    found = tf.io.parse_example(records, FEATURES)
    images = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), (-1, *SHAPE))
    return tf.cast(images, tf.float32) / 255, found["label"]


def batches(data: object, rank: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    order = Order(30, 4 * size, 30 // (4 * size), 7, rank, size)
    return [(x.numpy(), y.numpy()) for x, y in EpochBatches(data, order).dataset()]


@pytest.mark.parametrize("cache", [True, False])
def test_images_come_in_the_order_of_arrays(tmp_path: Path, cache: bool):
    images, labels = pictures(30)
    stored = image_folder(write_folder(tmp_path, images, labels), cache=cache)
    by_class = np.argsort(labels, kind="stable")
    arrays = (images[by_class].astype(np.float32) / np.float32(255), labels[by_class])
    assert count(stored) == 30
    for rank in range(2):
        found, expected = batches(stored, rank, 2), batches(arrays, rank, 2)
        assert len(found) == len(expected) == 3
        for mine, other in zip(found, expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))


def test_records_come_in_the_order_of_arrays(tmp_path: Path):
    images, labels = pictures(30)
    stored = tfrecords(write_records(tmp_path, images, labels), parse)
    places = np.concatenate([np.arange(30)[file::3] for file in range(3)])
    arrays = (images[places].astype(np.float32) / np.float32(255), labels[places])
    assert count(stored) == 30
    for mine, other in zip(batches(stored, 1, 2), batches(arrays, 1, 2), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))


def test_a_rank_reads_the_files_of_its_own_batches_only(tmp_path: Path):
    images, labels = pictures(30)
    folder = write_folder(tmp_path, images, labels)
    stored = image_folder(folder, cache=False)
    own = Order(30, 8, 3, 7, 0, 2).batches(0).ravel()
    files = sorted(folder.rglob("*.png"))
    for number in set(range(1, 30)) - set(own.tolist()):
        files[number].unlink()
    assert len(batches(stored, 0, 2)) == 3
    with pytest.raises(Exception, match=r"not an image that can be read"):
        batches(stored, 1, 2)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no image", "not an image that can be read"),
        (tf.io.encode_png(np.zeros((9, 9, 1), np.uint8)).numpy(), r"shape \(9, 9, 1\), the first one \(5, 4, 1\)"),
    ],
    ids=["broken", "larger"],
)
def test_an_image_that_does_not_fit_is_named_while_training(tmp_path: Path, cache: bool, content: bytes, words: str):
    folder = write_folder(tmp_path, *pictures(30))
    stored = image_folder(folder, cache=cache)
    rows = Order(30, 8, 3, 7, 0, 2).batches(0).ravel()
    bad = sorted(folder.rglob("*.png"))[rows[-1]]
    bad.write_bytes(content)
    with pytest.raises(tf.errors.OpError) as raised:
        batches(stored, 0, 2)
    assert re.search(f"{bad.name}: .*{words}", str(explained(raised.value)))


@pytest.mark.parametrize("kind", ["images", "records"])
@pytest.mark.parametrize(("size", "number"), [(1, 10), (2, 10), (4, 10), (2, 1), (4, 2)])
def test_evaluation_covers_everything_once(tmp_path: Path, kind: str, size: int, number: int):
    images, labels = pictures(number)
    data = (
        image_folder(write_folder(tmp_path, images, labels))
        if kind == "images"
        else tfrecords(write_records(tmp_path, images, labels), parse)
    )
    seen = []
    for rank in range(size):
        part = evaluation_part(data, batch_size=4, rank=rank, size=size)
        found = [image.tobytes() for x, _ in part.batches for image in np.round(x.numpy() * 255).astype(np.uint8)]
        assert found, "a rank without examples of its own still has a batch"
        seen += found if part.counts else []
    assert sorted(seen) == sorted(image.tobytes() for image in images)


def test_hidden_folders_are_no_classes(tmp_path: Path):
    folder = write_folder(tmp_path, *pictures(6))
    labels = image_folder(folder)[1]
    (folder / ".ipynb_checkpoints").mkdir()
    assert np.array_equal(image_folder(folder)[1], labels)


def test_images_are_brought_to_a_size(tmp_path: Path):
    images, labels = pictures(6)
    folder = write_folder(tmp_path, images, labels)
    odd = tf.io.encode_jpeg(np.full((9, 9, 1), 128, np.uint8)).numpy()
    (folder / "class_2" / "zz.jpg").write_bytes(odd)
    x, _ = image_folder(folder, cache=False)
    with pytest.raises(UserCodeError, match=r"zz\.jpg: this image has shape \(9, 9, 1\), the first one \(5, 4, 1\)"):
        x[-1]
    x, y = image_folder(folder, size=(8, 8), channels=3)
    assert (x.shape, y.shape) == ((7, 8, 8, 3), (7,))
    assert x[-1] == pytest.approx(128 / 255, abs=0.02)
    assert x[:3].shape == (3, 8, 8, 3)


def test_what_is_wrong_with_files_is_said(tmp_path: Path):
    with pytest.raises(UserCodeError, match=r"expected a folder for each class with \.png"):
        image_folder(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(UserCodeError, match="found 1 folders without any"):
        image_folder(tmp_path)
    (tmp_path / "a" / "x.png").write_bytes(b"no image")
    with pytest.raises(UserCodeError, match=r"x\.png: not an image that can be read"):
        image_folder(tmp_path)
    with pytest.raises(UserCodeError, match="no file has this name"):
        tfrecords(tmp_path / "*.tfrecord", parse)
    with pytest.raises(UserCodeError, match="the list of files is empty"):
        tfrecords([], parse)
    with pytest.raises(UserCodeError, match="No such file"):
        tfrecords([tmp_path / "missing"], parse)
    whole = Path(write_records(tmp_path / "r", *pictures(3), num_files=1).replace("*", "0"))
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(UserCodeError, match="record 2 does not end within the file"):
        tfrecords(whole, parse)


def folder_of(place: Path, *classes: str) -> Path:
    for name in classes:
        (place / name).mkdir(parents=True)
        (place / name / "1.png").write_bytes(tf.io.encode_png(np.zeros((2, 2, 1), np.uint8)).numpy())
    return place


def test_classes_have_one_number_in_training_and_test(tmp_path: Path):
    train, test = folder_of(tmp_path / "train", "ant", "bee", "cow"), folder_of(tmp_path / "test", "ant", "cow")
    with pytest.raises(UserCodeError, match="mine:data: class 1 is 'bee' in the training folder and 'cow'"):
        require_same_classes(image_folder(train), image_folder(test), "mine:data")
    classes = ["ant", "bee", "cow"]
    _, labels = image_folder(test, classes=classes)
    assert labels.tolist() == [0, 2]
    require_same_classes(image_folder(train), image_folder(test, classes=classes), "mine:data")
    require_same_classes(image_folder(train), image_folder(folder_of(tmp_path / "few", "ant", "bee")), "mine:data")
    require_same_classes(image_folder(train, own_files=True), image_folder(test, classes=classes), "mine:data")
    with pytest.raises(UserCodeError, match="class 3 is not there in the training folder and 'dog'"):
        require_same_classes(image_folder(train), image_folder(folder_of(tmp_path / "t", *classes, "dog")), "mine:data")
    with pytest.raises(UserCodeError, match="no class 'cow' in classes, which are ant, cows; did you mean 'cows'"):
        image_folder(test, classes=["ant", "cows"])
    with pytest.raises(UserCodeError, match="classes names one twice: ant, ant"):
        image_folder(test, classes=["ant", "ant"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_of_a_record_is_trained_on(tmp_path: Path, data: st.DataObject):
    images, labels = pictures(3)
    file = Path(write_records(tmp_path, images, labels, num_files=1).replace("*", "0"))
    sound = file.read_bytes()
    assert list(tfrecords(file, parse).arrays[0][:]) == [raw.numpy() for raw in tf.data.TFRecordDataset(str(file))]
    bit = data.draw(st.integers(0, 8 * len(sound) - 1))
    flipped = bytearray(sound)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    with pytest.raises(UserCodeError, match=r"part-0\.tfrecord: .*(is damaged|damaged head|does not end within)"):
        tfrecords(file, parse).arrays[0][:]


def test_more_files_than_a_process_may_open_at_first(tmp_path: Path):
    """In a process of its own, whose limit is lowered: below what is needed, then for good."""
    names = [tmp_path / f"{number:03d}.tfrecord" for number in range(40)]
    for name in names:
        with tf.io.TFRecordWriter(str(name)) as writer:
            writer.write(name.name.encode())
    program = (
        "import os, resource, sys; from hvdtrain.train.records import tfrecords\n"
        "may = len(os.listdir('/proc/self/fd')) + 20\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (may, may if sys.argv[1] == 'for good' else 4096))\n"
        f"records = tfrecords({str(tmp_path / '*.tfrecord')!r}, None); print(records.arrays[0][39:])"
    )

    def run(how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=False)

    assert "039.tfrecord" in run("at first").stdout
    assert "tfrecords of 40 files: this process may open " in run("for good").stderr


@pytest.mark.parametrize("kind", ["images", "records"])
def test_scripts_shard_them_and_see_where_ranks_have_other_files(tmp_path: Path, kind: str):
    def stored(name: str, number: int) -> object:
        images, labels = pictures(30)
        images[0] += np.uint8(number)
        if kind == "images":
            return image_folder(write_folder(tmp_path / name, images, labels))
        return tfrecords(write_records(tmp_path / name, images, labels), parse)

    one, same, other = stored("one", 0), stored("same", 0), stored("other", 1)
    dealt = array_batches(one, SoloComm(), batch_size=7, seed=0, remainder="drop")
    dealt.tell(0)
    assert [x.shape for x, _ in dealt.dataset()] == [(7, *SHAPE)] * 4
    digests = [batch_digest([array[:8] for array in stored_arrays(data)]) for data in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_function_must_make_pairs(tmp_path: Path):
    data = Mapped((np.arange(5),), lambda x: x)
    with pytest.raises(UserCodeError, match="must make"):
        first_examples(data, "mine: train")
    x, y = first_examples(Mapped((np.arange(5),), lambda x: (x, -x)), "mine: train")
    assert (x.tolist(), y.tolist()) == ([0, 1, 2, 3, 4], [0, -1, -2, -3, -4])


def test_a_stored_array_has_rows_like_an_array():
    stored = StoredArray(4, (2,), np.float32, lambda rows: np.stack([rows, rows * 10], 1).astype(np.float32))
    assert (len(stored), stored.shape, stored[2].tolist()) == (4, (4, 2), [2, 20])
    assert stored[1:3].tolist() == [[1, 10], [2, 20]]
    assert stored[-1:].tolist() == [[3, 30]]


SOURCES = """
import numpy as np, tensorflow as tf
import hvdtrain.keras as hk
from hvdtrain.workshop.data import digits

FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

def parse(records):
    found = tf.io.parse_example(records, FEATURES)
    images = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), (-1, 8, 8, 1))
    return tf.cast(images, tf.float32) / 255, found["label"]

def parts():
    for name, (x, y) in zip(("train", "test"), digits()):
        order = np.argsort(y, kind="stable")
        yield name, np.round(x[order] * 240).astype(np.uint8), y[order]

def arrays():
    return tuple((x.astype(np.float32) / np.float32(255), y) for _, x, y in parts())

def images():
    return hk.image_folder("images/train"), hk.image_folder("images/test")

def records():
    return hk.tfrecords("records/train-*", parse), hk.tfrecords("records/test-*", parse)
"""
WRITE = """
import os, sys
sys.path.insert(0, ".")
import tensorflow as tf
from sources import parts
for name, x, y in parts():
    os.makedirs("records", exist_ok=True)
    writers = [tf.io.TFRecordWriter(f"records/{name}-{file}") for file in range(3)]
    for number, (image, label) in enumerate(zip(x, y)):
        os.makedirs(f"images/{name}/{label}", exist_ok=True)
        open(f"images/{name}/{label}/{number:05d}.png", "wb").write(tf.io.encode_png(image).numpy())
        feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                   "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))}
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writers[number * 3 // len(x)].write(example.SerializeToString())
    for writer in writers: writer.close()
"""


@pytest.mark.usefixtures("require_horovod")
@pytest.mark.thorough
def test_runs_on_files_have_the_bits_of_runs_on_arrays(tmp_path: Path):
    folder = Workdir(tmp_path / "work")
    (folder.path / "sources.py").write_text(SOURCES)
    written = folder.call(sys.executable, "-c", WRITE)
    assert written.code == 0, written.err
    digests, tests = set(), set()
    for kind in ("arrays", "images", "records"):
        config = {
            "name": kind,
            "model": {"source": "hvdtrain.workshop.models:digits_cnn"},
            "data": {"source": f"sources:{kind}", "num_examples": 1437},
            "training": {"epochs": 2, "batch_size_per_replica": 32, "deterministic": True},
        }
        (folder.path / f"{kind}.yaml").write_text(json.dumps(config))
        outcome = folder.hvdtrain("run", f"{kind}.yaml", "--ranks", "2")
        assert outcome.code == 0, outcome.err
        (summary,) = folder.path.glob(f"runs/{kind}/*/summary.json")
        found = json.loads(summary.read_text())
        digests.add(found["digest"])
        tests.add(found["metrics"]["val_accuracy"])
    assert len(digests) == 1
    assert len(tests) == 1


def test_a_file_of_records_may_have_brackets_in_its_name(tmp_path):
    path = str(tmp_path / "rec[v1].tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"one")
    assert tfrecords(path, lambda records: records).arrays[0][0] == b"one"
