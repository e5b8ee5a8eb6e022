"""Adam's update in one pass over memory, see `native/adam.cc`; the bits are those of Keras's own update.

Keras's update goes through memory some ten times: for a model whose step is short that is as much as the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from hvdtrain import native
from hvdtrain.train import compat

FLOP_PER_ELEMENT = 12
compat.count_flop("HvdtrainAdam", FLOP_PER_ELEMENT, lambda count: range(3 * count, 4 * count))

# AdamW is Adam after its weight decay, which Keras applies before the update. A subclass may do anything.
KINDS: tuple[type, ...] = (keras.optimizers.Adam, keras.optimizers.AdamW)


def update(optimizer: Any, original: type, gradients: Sequence[Any], variables: Sequence[Any], rate: Any) -> bool:
    """Update variables and slots if all of this is what the operation is made for; else do nothing.

    Args:
        optimizer: Built for the variables.
        original: Its class, before it was distributed.
        gradients: One for each variable.
        variables: Keras's.
        rate: The learning rate.

    Returns:
        Whether they are updated.
    """
    if original not in KINDS or optimizer.amsgrad or not _fit(gradients, variables):
        return False
    operation = _operation()
    if operation is None:
        return False
    places = [optimizer._get_variable_index(variable) for variable in variables]
    operation(
        variables=[compat.raw(variable).handle for variable in variables],
        momentums=[compat.raw(optimizer._momentums[place]).handle for place in places],
        velocities=[compat.raw(optimizer._velocities[place]).handle for place in places],
        gradients=[tf.convert_to_tensor(gradient) for gradient in gradients],
        alpha=_alpha(optimizer, rate),
        one_minus_beta_1=1 - optimizer.beta_1,
        one_minus_beta_2=1 - optimizer.beta_2,
        epsilon=optimizer.epsilon,
    )
    return True


def _fit(gradients: Sequence[Any], variables: Sequence[Any]) -> bool:
    """Tell whether all are dense, float32 and in the main memory, in a program that TensorFlow itself runs."""
    return (
        not compat.is_for_xla()
        and not any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
        and all(tf.as_dtype(variable.dtype) == tf.float32 for variable in variables)
        and all(tf.convert_to_tensor(gradient).dtype == tf.float32 for gradient in gradients)
        and all("GPU" not in compat.raw(variable).device for variable in variables)
    )


def _alpha(optimizer: Any, rate: Any) -> tf.Tensor:
    """Return the corrected learning rate as `keras.optimizers.Adam.update_step` computes it."""
    step = ops.cast(optimizer.iterations + 1, "float32")
    beta_1_power = ops.power(ops.cast(optimizer.beta_1, "float32"), step)
    beta_2_power = ops.power(ops.cast(optimizer.beta_2, "float32"), step)
    return ops.cast(rate, "float32") * ops.sqrt(1 - beta_2_power) / (1 - beta_1_power)


@cache
def _operation() -> Any:
    """Return the compiled operation, or None where there is none."""
    library = native.library_path(tf.__version__, os.environ)
    return tf.load_op_library(str(library)).hvdtrain_adam if library.exists() else None
