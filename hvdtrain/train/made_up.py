"""Made-up data of the shapes a model takes and returns: what a machine can do when no input is in its way."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.plan import Plan
from hvdtrain.train.losses import snake_case
from hvdtrain.train.user_code import Data

SPARSE = "sparse_categorical_crossentropy"


def made_up(model: keras.Model, plan: Plan) -> Data:
    """Return as many random examples as the plan counts on, the same on every rank.

    Inputs of floats are uniform in [0, 1), whole numbers 0 or 1, which every embedding knows. Labels are classes for a
    sparse loss, else floats of the output's shape.

    Raises:
        UserCodeError: If the model does not say its shapes, or the loss is the user's own.
    """
    if ":" in plan.config["loss"]:
        raise UserCodeError(
            f"made-up data: what labels {plan.config['loss']} takes is not known; measure with the run's own data"
        )
    random = np.random.default_rng(0)
    in_all = plan.num_examples + plan.num_validation  # what is held out has its numbers
    inputs = [_random(random, in_all, tensor) for tensor in model.inputs]
    loss = snake_case(plan.config["loss"])
    outputs = [_labels(random, in_all, loss, tensor) for tensor in model.outputs]
    return Data(train=(_one_or_all(inputs), _one_or_all(outputs)), test=None)


def _random(random: np.random.Generator, count: int, tensor: Any) -> np.ndarray:
    shape = (count, *_shape(tensor))
    if "int" in str(tensor.dtype):
        return random.integers(2, size=shape).astype(str(tensor.dtype))
    return random.random(shape, np.float32)


def _labels(random: np.random.Generator, count: int, loss: str, tensor: Any) -> np.ndarray:
    shape = _shape(tensor)
    if loss == SPARSE:
        return random.integers(shape[-1], size=(count, *shape[:-1]))
    return random.random((count, *shape), np.float32)


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise UserCodeError(
            f"made-up data need whole shapes, and {tensor.name} has {tensor.shape}; measure with the run's own data"
        )
    return shape


def _one_or_all(arrays: list[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)
