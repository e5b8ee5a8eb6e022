"""How long a rank that has finished its gradients waits for those of all ranks: exposed communication.

Two looks at the clock inside the training step. It cannot be known on a GPU, whose work goes on after TensorFlow has
returned, nor where gradients leave in groups while others are computed, nor with op determinism, which forbids it;
there is nothing then, rather than a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from hvdtrain.train import compat

if TYPE_CHECKING:
    from hvdtrain.train.optimizer import Reduction


class ExposedTime:
    """Adds up how long averages were waited for. Used while a training step is traced."""

    def __init__(self) -> None:
        self._total_s = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def begin(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return the moment at which the last of these tensors is there; what is averaged must come after it."""
        with tf.control_dependencies(list(tensors)):
            return tf.timestamp()

    def end(self, began: tf.Tensor, means: Sequence[tf.Tensor]) -> None:
        """Add the time until the last of the means is there."""
        with tf.control_dependencies(list(means)):
            self._total_s.assign_add(tf.timestamp() - began)

    def seconds(self) -> float:
        """Return the total of this process so far."""
        return float(compat.to_array(self._total_s))


def watch_exposed(reduction: Reduction | None) -> ExposedTime | None:
    """Let a training step, which has not been traced yet, time its waits; None where they cannot be known.

    To be called on all ranks alike.

    Args:
        reduction: Of the model's optimizer; None if it averages by itself.
    """
    if reduction is None or reduction.comm.size == 1 or reduction.exchange.num_groups is not None:
        return None
    if tf.config.list_physical_devices("GPU") or compat.is_deterministic():
        return None
    reduction.exposed = ExposedTime()
    return reduction.exposed
