"""Batch normalization over the examples of all ranks, as one process would do it on the global batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train import compat
from hvdtrain.train.comm import Comm, joined

# Below this many examples the statistics of one replica's batch are known to be too noisy (Wu and He 2018, figure 1).
FEW_EXAMPLES = 16


@keras.saving.register_keras_serializable(package="hvdtrain")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` whose mean and variance in training are those of all ranks' examples.

    Every example counts once, masked ones not at all, however many of them each rank has. Gradients are those of one
    process: they flow through the other ranks' statistics as well. Each call costs a small collective forward and
    one backward, so all ranks must make the same calls with `training=True`. In inference, and in one process, it is
    Keras's layer; over the devices of a MirroredStrategy it is Keras's `synchronized=True`.

    It takes the arguments of `keras.layers.BatchNormalization`, but for `synchronized`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options | {"synchronized": tf.distribute.has_strategy()})
        self.hvdtrain_place = self.name
        self.hvdtrain_reduction: Any = None

    def _moments(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        comm = joined()
        if comm.size == 1:
            return super()._moments(inputs, mask)
        over_ranks = Moments(comm, f"norm.{self.hvdtrain_place}", self._reduction_axes, self._loss_weight)
        if mask is None:
            return over_ranks(inputs, None)
        counts = tf.broadcast_to(tf.cast(tf.expand_dims(mask, -1), tf.bool), tf.shape(inputs))
        return over_ranks(tf.where(counts, inputs, tf.zeros_like(inputs)), tf.cast(counts, inputs.dtype))

    def _loss_weight(self) -> Any:
        """Return what this replica's loss counts for in this step."""
        weight = getattr(self.hvdtrain_reduction, "weight", None)
        return 1.0 if weight is None else weight.coming()


class Moments:
    """Mean and variance of each channel over all ranks, and their gradient.

    Args:
        comm: The ranks.
        name: The same on all ranks.
        axes: Those to sum over.
        loss_weight: Returns what this replica's loss counts for.
    """

    def __init__(self, comm: Comm, name: str, axes: list[int], loss_weight: Callable[[], Any]) -> None:
        self._comm, self._name, self._axes = comm, name, axes
        self._loss_weight = loss_weight
        self._extra = 0.0

    def __call__(self, inputs: Any, weights: Any) -> tuple[Any, Any]:
        """Return (mean, variance), shaped as the channels; `weights` are 0 or 1, or None if all count."""
        if weights is not None:
            # Keras divides masked sums by the number of examples that count, plus this; each rank brings its part.
            self._extra = keras.config.epsilon() / self._comm.size

        def moments(x: Any) -> Any:
            count, middle, mean, variance = self._forward(x, weights)

            def gradient(of_mean: Any, of_variance: Any) -> Any:
                of_mean, of_variance = self._backward(count, middle, mean, of_mean, of_variance)
                of_x = self._wide(of_mean, x) + self._wide(2.0 * of_variance, x) * (x - self._wide(mean, x))
                return of_x if weights is None else of_x * weights

            return (mean, variance), gradient

        return tf.custom_gradient(moments)(inputs)

    def _local(self, x: Any, weights: Any) -> tuple[Any, Any, Any]:
        """Return this rank's number of examples, their mean, and their squares about it."""
        if weights is None:
            mean, variance = tf.nn.moments(x, self._axes)
            count = tf.fill(tf.shape(mean), tf.cast(tf.size(x) // tf.size(mean), x.dtype))
            none = tf.zeros_like(mean)  # a replica may be without examples in the last step of an epoch
            return count, tf.where(count > 0, mean, none), tf.where(count > 0, variance * count, none)
        count = tf.reduce_sum(weights, self._axes)
        mean = tf.math.divide_no_nan(tf.reduce_sum(weights * x, self._axes), count)
        return count, mean, tf.reduce_sum(weights * (x - self._wide(mean, x)) ** 2, self._axes)

    def _forward(self, x: Any, weights: Any) -> tuple[Any, Any, Any, Any]:
        """Return the examples per rank, their mean, and the mean and variance as Keras defines them.

        Each rank's squares are about its own mean and are added in double precision: a large mean cancels nothing.
        """
        n, m, q = (tf.cast(value, tf.float64) for value in self._local(x, weights))
        (packed,) = self._comm.average([tf.stack([n, n * m, q + n * m**2])], name=self._name)
        count, total, squares = tf.unstack(packed, num=3)
        middle = tf.math.divide_no_nan(total, count)
        mean = total / (count + self._extra)
        about_mean = tf.maximum(squares - count * middle**2, 0.0) + count * (middle - mean) ** 2
        variance = about_mean / (count + self._extra)
        count, middle, mean, variance = (tf.cast(value, x.dtype) for value in (count, middle, mean, variance))
        return count, middle, mean, variance

    def _backward(self, count: Any, middle: Any, mean: Any, of_mean: Any, of_variance: Any) -> tuple[Any, Any]:
        """Return what one example's inputs get of the gradients of all ranks' losses.

        The optimizer multiplies what comes out by this replica's loss weight, so the others' share is divided by it.
        """
        loss_weight = tf.cast(self._loss_weight(), mean.dtype)
        mine = tf.stack([of_mean, of_variance]) * loss_weight
        (packed,) = self._comm.average([mine], name=f"{self._name}.gradient")
        of_mean, of_variance = tf.unstack(tf.math.divide_no_nan(packed, loss_weight), num=2)
        examples = count + tf.cast(self._extra, mean.dtype)
        of_mean -= of_variance * 2.0 * count * (middle - mean) / examples
        return of_mean / examples, of_variance / examples

    def _wide(self, channels: Any, x: Any) -> Any:
        """Return a value per channel in a shape that goes with the inputs."""
        return tf.reshape(channels, [1 if axis in self._axes else -1 for axis in range(len(x.shape))])


def tell_layers(model: keras.Model, reduction: Any) -> None:
    """Give synchronised layers names that are equal on all ranks, and the weight of this replica's loss."""
    for place, layer in enumerate(compat.all_layers(model)):
        if isinstance(layer, SyncBatchNormalization):
            layer.hvdtrain_place = str(place)
            layer.hvdtrain_reduction = reduction


def small_batch_hint(model: keras.Model, batch_size_per_replica: int) -> str | None:
    """Return what to say about BatchNormalization over few examples, or None."""
    plain = [
        layer
        for layer in compat.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and not isinstance(layer, SyncBatchNormalization)
        and layer.trainable
    ]
    if not plain or batch_size_per_replica >= FEW_EXAMPLES:
        return None
    return (
        f"{plain[0].name} normalizes over the {batch_size_per_replica} examples of its own replica alone, which is "
        "noisy, and not what one process does on the global batch. hvdtrain.keras.SyncBatchNormalization takes all "
        "replicas' examples; keras.layers.GroupNormalization does not depend on the batch at all"
    )
