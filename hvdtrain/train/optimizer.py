"""The distributed optimizer: a Keras 3 optimizer whose gradients are averaged over all ranks before they are used.

Keras 3 calls `optimizer.apply(gradients, variables)`; Horovod 0.28.1 averages in methods that Keras 3 never calls,
so each rank trains a model of its own and nothing says so. Here `apply` is the place, before clipping, weight
decay and moving averages.
"""

from __future__ import annotations

from typing import Any, cast

import keras
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.exchange import Exchange
from hvdtrain.train.order import Order


class LossWeight:
    """What a replica's mean loss counts for, where replicas do not have equally many examples in every step.

    Args:
        order: This replica's.
        steps_done: Steps of the epoch that are done when training begins.
    """

    def __init__(self, order: Order, steps_done: int = 0) -> None:
        self._ordinary, self._last = order.loss_weights
        self._steps_per_epoch = order.steps_per_epoch
        self._step = tf.Variable(steps_done, dtype=tf.int64, trainable=False)

    def next(self) -> tf.Tensor:
        """Return the weight of the next step."""
        return self._of(self._step.assign_add(1, read_value=True))

    def coming(self) -> tf.Tensor:
        """Return the weight that `next` returns next."""
        return self._of(self._step + 1)

    def _of(self, step: tf.Tensor) -> tf.Tensor:
        last, ordinary = tf.constant(self._last, tf.float64), tf.constant(self._ordinary, tf.float64)
        return tf.where(step % self._steps_per_epoch == 0, last, ordinary)


class Reduction:
    """What a distributed optimizer does with its gradients, kept apart from the optimizer's own attributes.

    Args:
        comm: The ranks.
        is_per_update: Average what was accumulated, once per update, rather than each step's gradients.
        exchange: How dense gradients travel.
    """

    def __init__(self, comm: Comm, *, is_per_update: bool = False, exchange: Exchange | None = None) -> None:
        self.comm = comm
        self.exchange = exchange or Exchange()
        self.is_per_update = is_per_update
        self.statistics: list[keras.Variable] = []
        self.weight: LossWeight | None = None

    def average(self, gradients: list[Any]) -> list[Any]:
        """Return the gradients averaged over ranks, and average the moving statistics in the same collective.

        `None` (a variable the loss does not depend on) passes through, and rows of an embedding stay rows; the
        graph is the same on every rank.
        """
        if self.weight is not None:
            weight = self.weight.next()
            gradients = [gradient if gradient is None else weighted(gradient, weight) for gradient in gradients]
        if self.exchange.is_adasum:
            gradients = [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]
        rows = {i: gradient for i, gradient in enumerate(gradients) if isinstance(gradient, tf.IndexedSlices)}
        dense = {
            i: tf.convert_to_tensor(gradient)
            for i, gradient in enumerate(gradients)
            if gradient is not None and i not in rows
        }
        statistics = [tf.convert_to_tensor(compat.raw(variable)) for variable in self.statistics]
        averaged = self.exchange(self.comm, list(dense.values()), statistics)
        for variable, value in zip(self.statistics, averaged[len(dense) :], strict=True):
            variable.assign(value)
        by_place = dict(zip(dense, averaged, strict=False))
        by_place |= {i: self.comm.average_rows(gradient, name=f"rows.{i}") for i, gradient in rows.items()}
        return [by_place.get(i) for i in range(len(gradients))]


def weighted(gradient: Any, weight: tf.Tensor) -> Any:
    """Return a gradient, dense or in rows, times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(weighted(gradient.values, weight), gradient.indices, gradient.dense_shape)
    gradient = tf.convert_to_tensor(gradient)
    return gradient * tf.cast(weight, gradient.dtype)


class DistributedMixin:
    """Placed in front of an optimizer's own class by `distribute`."""

    hvdtrain_comm: Comm
    hvdtrain_exchange: Exchange
    hvdtrain_reduction: Reduction

    def __init__(self, *args: Any, **options: Any) -> None:
        # Another optimizer of this class, as `type(optimizer).from_config(...)` makes it, is distributed as well.
        super().__init__(*args, **options)
        self._hvdtrain_begin()

    def __reduce__(self: Any) -> Any:
        # A pickle knows classes by their names, and this one has the original's: the optimizer comes back plain.
        unpickle, arguments = cast(tuple[Any, Any], super().__reduce__())
        return getattr(type(self).__mro__[2], unpickle.__name__), arguments

    def _hvdtrain_begin(self: Any) -> None:
        is_per_update = bool(self.gradient_accumulation_steps)
        self.hvdtrain_reduction = Reduction(
            self.hvdtrain_comm, is_per_update=is_per_update, exchange=self.hvdtrain_exchange
        )

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Average the gradients over ranks, then update as the original optimizer does."""
        gradients = list(grads)
        if not self.hvdtrain_reduction.is_per_update:
            gradients = self.hvdtrain_reduction.average(gradients)
        return super().apply(gradients, trainable_variables)  # type: ignore[misc]

    def _clip_gradients(self, grads: Any) -> Any:
        """Average what was accumulated. Keras calls this once per update, in the branch that updates."""
        if self.hvdtrain_reduction.is_per_update:
            grads = self.hvdtrain_reduction.average(list(grads))
        return super()._clip_gradients(grads)  # type: ignore[misc]


def distribute(
    optimizer: keras.optimizers.Optimizer, comm: Comm, exchange: Exchange | None = None
) -> keras.optimizers.Optimizer:
    """Turn a Keras optimizer into a distributed one, in place, and return it.

    Its class keeps its name, configuration and slots, so a checkpoint loads without hvdtrain. Under the policy
    mixed_float16 the returned one is a distributed LossScaleOptimizer around it, as Keras would wrap it: all ranks
    look at the same averaged gradients, so they skip the same steps and keep the same scale.

    Raises:
        UserCodeError: If it already is distributed, is no Keras optimizer, or the inner one of a LossScaleOptimizer is;
            if Adasum cannot do what is asked.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UserCodeError(
            f"DistributedOptimizer needs a Keras optimizer object such as keras.optimizers.SGD(0.01); got {optimizer!r}"
        )
    if is_distributed(optimizer):
        raise UserCodeError(
            "this optimizer is distributed already; averaging twice would cost twice: wrap it only once"
        )
    refuse_inner(optimizer)
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if keras.mixed_precision.dtype_policy().name == "mixed_float16" and not scales:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        scales = True
    exchange = exchange or Exchange()
    exchange.check(comm.size, scales_loss=scales)
    original = type(optimizer)
    own = {"__module__": original.__module__, "hvdtrain_comm": comm, "hvdtrain_exchange": exchange}
    distributed = type(original.__name__, (DistributedMixin, original), own)
    compat.register_as(distributed, original)
    optimizer.__class__ = distributed
    optimizer._hvdtrain_begin()
    return optimizer


def is_distributed(optimizer: Any) -> bool:
    """Tell whether `distribute` made this optimizer."""
    return isinstance(optimizer, DistributedMixin)


def refuse_inner(optimizer: Any) -> None:
    """Raise where ranks could disagree on whether a step is skipped.

    Raises:
        UserCodeError: For a loss-scaling optimizer around a distributed one: each rank would look for infinities in
            its own gradients, and those that skip a step would leave the others waiting.
    """
    if is_distributed(getattr(optimizer, "inner_optimizer", None)):
        raise UserCodeError(
            "a LossScaleOptimizer stands around the distributed optimizer, so ranks would skip different steps; write "
            "hk.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(...)), or set the policy mixed_float16 before "
            "hk.DistributedOptimizer(...), which then does it by itself"
        )
