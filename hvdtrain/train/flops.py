"""Floating-point operations of a training step, counted from its graph, and how many this device can do at best."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train.probes import alone

PEAK_S = 0.3


def flop_per_step(model: keras.Model, batch: Any) -> int | None:
    """Return the floating-point operations of one training step on a batch: forward, backward and update.

    TensorFlow's own counts of its operations are added up; one it has no count for counts nothing. None if the graph
    cannot be made.

    Args:
        model: Compiled.
        batch: One batch as training takes it.
    """
    try:
        with alone(model):
            graph = tf.function(lambda: model.train_step(batch)).get_concrete_function().graph
        builder = tf.compat.v1.profiler.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        return int(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)
    except (AttributeError, TypeError, ValueError):  # a train_step that needs more than one batch
        return None


def peak_flop_per_s(size: int | None = None) -> float:
    """Return the floating-point operations per second of a large float32 matrix product on this rank's device.

    Args:
        size: Rows and columns; None chooses by the device.
    """
    size = size or (8192 if tf.config.list_logical_devices("GPU") else 1024)
    matrix = tf.random.stateless_uniform((size, size), seed=(0, 0))
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)[0, :1]))
    product().numpy()
    best = float("inf")
    end = time.perf_counter() + PEAK_S
    while time.perf_counter() < end:
        began = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
