"""The loop a good engineer writes with Horovod and without hvdtrain: the same data, model, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from hvdtrain.bench.task import Task
from hvdtrain.train.bench import problems
from hvdtrain.train.bench.stopwatch import Stopwatch
from hvdtrain.train.data import EpochBatches


def train(name: str, batches: EpochBatches, task: Task, stopwatch: Stopwatch) -> None:
    """Train one model until the stopwatch has what it needs."""
    model = problems.build(name)
    optimizer = problems.optimizer()
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables([variable.value for variable in (*model.variables, *optimizer.variables)], root_rank=0)
    loss_mean = keras.metrics.Mean()
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    run = make_execution(model, optimizer, loss_mean, accuracy, task.steps_per_execution)
    dataset = batches.dataset()
    is_done = False
    while not is_done:
        loss_mean.reset_state()
        accuracy.reset_state()
        iterator = iter(dataset)
        for _ in range(0, batches.order.steps_per_epoch, task.steps_per_execution):
            run(iterator)
            is_done = stopwatch.execution_done()
            if is_done:
                break
        float(loss_mean.result()), float(accuracy.result())  # an epoch's log line would show them
        batches.epoch += 1


def make_execution(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    loss_mean: keras.metrics.Metric,
    accuracy: keras.metrics.Metric,
    num_steps: int,
) -> Callable[[Any], None]:
    """Return a function that runs `num_steps` training steps in one call into TensorFlow."""
    compute_loss = keras.losses.SparseCategoricalCrossentropy()

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            predicted = model(x, training=True)
            loss = compute_loss(y, predicted)
        gradients = tape.gradient(loss, model.trainable_variables)
        averaged = hvd.grouped_allreduce(gradients, op=hvd.Average)
        optimizer.apply(averaged, model.trainable_variables)
        loss_mean.update_state(loss, sample_weight=tf.shape(x)[0])
        accuracy.update_state(y, predicted)

    @tf.function  # type: ignore[untyped-decorator]
    def run(iterator: Any) -> None:
        for _ in tf.range(num_steps):
            step(*next(iterator))

    return run
