"""The models and data that every arm trains: MNIST's shape, float32, in memory; Adam for all."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.bench.task import NUM_EXAMPLES, Task, steps_per_epoch
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.order import Order
from hvdtrain.workshop.models import cnn_two, fully_connected

SHAPE = (28, 28, 1)
NUM_CLASSES = 10


def build(name: str) -> keras.Model:
    """Return the model, with the same first weights on every rank."""
    keras.utils.set_random_seed(0)
    if name == "cnn":
        return cnn_two(SHAPE, NUM_CLASSES)
    width = int(name.removeprefix("fc"))
    return fully_connected((width, width), SHAPE, NUM_CLASSES)


def optimizer() -> keras.optimizers.Optimizer:
    """Return the optimizer of every model and arm."""
    return keras.optimizers.Adam(1e-3)


def data() -> tuple[tf.Tensor, tf.Tensor]:
    """Return random images and labels; how well they can be learnt does not matter here."""
    random = np.random.default_rng(0)
    x = random.random((NUM_EXAMPLES, *SHAPE), np.float32)
    return tf.constant(x), tf.constant(random.integers(NUM_CLASSES, size=NUM_EXAMPLES))


def batches(arrays: Any, task: Task, rank: int) -> Any:
    """Return one rank's batches, made as the product makes them."""
    steps = steps_per_epoch(
        batch_size=task.batch_size,
        num_ranks=task.num_ranks,
        steps_per_execution=task.steps_per_execution,
        steps_per_save=task.steps_per_save,
    )
    order = Order(
        num_examples=NUM_EXAMPLES,
        examples_per_step=task.batch_size * task.num_ranks,
        steps_per_epoch=steps,
        seed=0,
        rank=rank,
        size=task.num_ranks,
    )
    if task.data != "memory":
        from hvdtrain.train.bench import inputs

        return inputs.batches(task, order)
    return EpochBatches(arrays, order)
