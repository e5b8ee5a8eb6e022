"""The same pictures as files, and what reads them: `python -m hvdtrain.train.bench.inputs FOLDER` writes them once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdtrain.bench.task import NUM_EXAMPLES, Task
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.deal import user_dataset_batches
from hvdtrain.train.order import Order
from hvdtrain.train.records import tfrecords
from hvdtrain.train.stored import image_folder

SHAPE = (28, 28, 1)
NUM_CLASSES = 10
NUM_FILES = 8
SHUFFLED = 10_000  # examples that a user's own pipeline draws from
FEATURES = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of bytes that are about as easy to compress as handwriting, and labels."""
    random = np.random.default_rng(0)
    coarse = random.integers(256, size=(NUM_EXAMPLES, 7, 7, 1), dtype=np.uint8)
    coarse[random.random(coarse.shape) < 0.7] = 0
    return coarse.repeat(4, axis=1).repeat(4, axis=2), random.integers(NUM_CLASSES, size=NUM_EXAMPLES)


def write(folder: Path) -> None:
    """Write a PNG file for each picture, in a folder for each class, and all of them into TFRecord files."""
    images, labels = pictures()
    for label in range(NUM_CLASSES):
        (folder / "images" / str(label)).mkdir(parents=True)
    writers = [tf.io.TFRecordWriter(str(folder / f"part-{file}.tfrecord")) for file in range(NUM_FILES)]
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        place = folder / "images" / str(label) / f"{number:05d}.png"
        place.write_bytes(tf.io.encode_png(image).numpy())
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        writers[number % NUM_FILES].write(example.SerializeToString())
    for writer in writers:
        writer.close()


def parse(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the pictures and labels of a batch of records."""
    found = tf.io.parse_example(records, FEATURES)
    images = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), (-1, *SHAPE))
    return tf.cast(images, tf.float32) / 255, found["label"]


class Dealt:
    """A user's own tf.data pipeline, with what the benchmark asks of batches."""

    def __init__(self, dataset: tf.data.Dataset, order: Order) -> None:
        self.order = order
        self.epoch = 0
        self._dataset = dataset

    def tell(self, epoch: int) -> None:
        """Do nothing: the pipeline shuffles by itself."""

    def dataset(self) -> tf.data.Dataset:
        """Return this rank's batches."""
        order = self.order
        return user_dataset_batches(
            self._dataset, global_batch_size=order.examples_per_step, steps=order.steps_per_epoch,
            num_examples=order.num_examples, rank=order.rank, size=order.size,
        )  # fmt: skip


def batches(task: Task, order: Order) -> Any:
    """Return one rank's batches of the files, as the task wants them read."""
    folder = Path(task.files)
    if task.data == "records":
        return EpochBatches(tfrecords(folder / "part-*.tfrecord", parse), order)
    if task.data == "tf.data":
        images, labels = pictures()
        dataset = tf.data.Dataset.from_tensor_slices((images.astype(np.float32) / np.float32(255), labels))
        return Dealt(dataset.shuffle(SHUFFLED, seed=0), order)
    stored, classes = image_folder(folder / "images", cache=task.data == "images")
    if task.data == "images":  # as after the first epochs, in which a rank sees other files each time
        for begin in range(0, len(stored), SHUFFLED):
            stored[begin : begin + SHUFFLED]
    return EpochBatches((stored, classes), order)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
