"""The distributed optimizer: a Keras 3 optimizer whose gradients are averaged over all ranks before they are used.

Keras 3 calls `optimizer.apply(gradients, variables)`; Horovod 0.28.1 averages in methods that Keras 3 never calls,
so each rank trains a model of its own and nothing says so. Here `apply` is the place, before clipping, weight
decay and moving averages.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train import compat
from hvdtrain.train.comm import Comm


class Reduction:
    """What a distributed optimizer does with its gradients, kept apart from the optimizer's own attributes."""

    def __init__(self, comm: Comm) -> None:
        self.comm = comm
        self.statistics: list[keras.Variable] = []

    def average(self, gradients: list[Any]) -> list[Any]:
        """Return the gradients averaged over ranks, and average the moving statistics in the same collective.

        `None` (a variable the loss does not depend on) passes through; the graph is the same on every rank.
        """
        dense = {i: tf.convert_to_tensor(gradient) for i, gradient in enumerate(gradients) if gradient is not None}
        statistics = [tf.convert_to_tensor(compat.raw(variable)) for variable in self.statistics]
        averaged = self.comm.average([*dense.values(), *statistics], name="gradients")
        for variable, value in zip(self.statistics, averaged[len(dense) :], strict=True):
            variable.assign(value)
        by_place = dict(zip(dense, averaged, strict=False))
        return [by_place.get(i) for i in range(len(gradients))]


class DistributedMixin:
    """Placed in front of an optimizer's own class by `distribute`."""

    hvdtrain_reduction: Reduction

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Average the gradients over ranks, then update as the original optimizer does."""
        return super().apply(self.hvdtrain_reduction.average(list(grads)), trainable_variables)  # type: ignore[misc]


def distribute(optimizer: keras.optimizers.Optimizer, comm: Comm) -> keras.optimizers.Optimizer:
    """Turn a Keras optimizer into a distributed one, in place, and return it.

    Its class keeps its name, configuration and slots, so a checkpoint loads without hvdtrain.

    Raises:
        UserCodeError: If it already is distributed, is no Keras optimizer, or scales losses (mixed precision).
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UserCodeError(
            f"DistributedOptimizer needs a Keras optimizer object such as keras.optimizers.SGD(0.01); got {optimizer!r}"
        )
    if is_distributed(optimizer):
        raise UserCodeError(
            "this optimizer is distributed already; averaging twice would cost twice: wrap it only once"
        )
    refuse_loss_scaling(optimizer)
    original = type(optimizer)
    distributed = type(original.__name__, (DistributedMixin, original), {"__module__": original.__module__})
    compat.register_as(distributed, original)
    optimizer.__class__ = distributed
    optimizer.hvdtrain_reduction = Reduction(comm)
    return optimizer


def is_distributed(optimizer: Any) -> bool:
    """Tell whether `distribute` made this optimizer."""
    return isinstance(optimizer, DistributedMixin)


def refuse_loss_scaling(optimizer: Any) -> None:
    """Raise where ranks could disagree on whether a step is skipped.

    Raises:
        UserCodeError: For a LossScaleOptimizer or under a mixed_float16 policy.
    """
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    policy = keras.mixed_precision.dtype_policy().name
    if scales or policy == "mixed_float16":
        what = "a LossScaleOptimizer" if scales else f"the dtype policy {policy}"
        raise UserCodeError(
            f"{what} is not supported yet: a rank whose gradients overflow would skip a step the others take; "
            "use float32, or mixed_bfloat16, which needs no loss scaling"
        )
