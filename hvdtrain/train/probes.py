"""Training steps with parts of the work left out: without communication, without the input, or the input alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train.comm import SoloComm
from hvdtrain.train.optimizer import reduction_of


class TimedFunction:
    """A train function that adds up how long it takes, until its values have arrived.

    Args:
        function: What `fit` calls with an iterator.

    Attributes:
        seconds: Time spent in it so far.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, iterator: Any) -> Any:
        """Run the function; `StopIteration` passes through."""
        began = time.perf_counter()
        logs = self._function(iterator)
        arrive(logs)
        self.seconds += time.perf_counter() - began
        return logs


def arrive(values: Any) -> None:
    """Wait until tensors have their values: a GPU may still be computing when TensorFlow returns."""
    for value in tf.nest.flatten(values):
        if tf.is_tensor(value):
            value.numpy()


class Probe:
    """Something that is timed execution by execution.

    Args:
        execute: Does one execution.
    """

    def __init__(self, execute: Callable[[], Any]) -> None:
        self._execute = execute

    def run(self, num_executions: int) -> float:
        """Return the mean seconds of one execution."""
        began = time.perf_counter()
        for _ in range(num_executions):
            arrive(self._execute())
        return (time.perf_counter() - began) / num_executions


def make_probes(model: keras.Model, dataset: Any, steps_per_execution: int) -> dict[str, Probe]:
    """Return what can be timed beside training.

    `alone`: the steps of training without communication, the ceiling of any number of ranks. `held`: the same on a few
    batches that stay in memory. `input`: reading the batches and nothing else.

    Args:
        model: Compiled; its optimizer may be distributed. Its weights go on changing, on each rank in its own way.
        dataset: The training batches. What is no `tf.data.Dataset` cannot be read twice, and gives no probes.
        steps_per_execution: Steps of one execution.
    """
    if not isinstance(dataset, tf.data.Dataset):
        return {}
    by_itself = without_communication(model)
    real = iter(dataset.repeat())
    held = iter(dataset.take(steps_per_execution).cache().repeat())
    reading = iter(dataset.repeat())
    return {
        "alone": Probe(lambda: by_itself(real)),
        "held": Probe(lambda: by_itself(held)),
        "input": Probe(lambda: read(reading, tf.constant(steps_per_execution))),
    }


def without_communication(model: keras.Model) -> Callable[[Iterator[Any]], Any]:
    """Return a train function of the model whose gradients stay on this rank."""
    theirs = model.train_function
    model.make_train_function(force=True)
    function, model.train_function = model.train_function, theirs

    def run(iterator: Iterator[Any]) -> Any:
        with alone(model):  # at each call: the function is traced at the first one, and again for another shape
            return function(iterator)

    return run


@contextlib.contextmanager
def alone(model: keras.Model) -> Iterator[None]:
    """While inside, what is traced of the model's training step keeps its gradients on this rank."""
    reduction = reduction_of(model)
    if reduction is None:
        yield
        return
    comm, reduction.comm = reduction.comm, SoloComm()
    try:
        yield
    finally:
        reduction.comm = comm


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def read(iterator: Any, num_batches: tf.Tensor) -> None:
    """Take batches from an iterator."""
    for _ in tf.range(num_batches):
        next(iterator)
