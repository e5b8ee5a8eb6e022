"""The user's model and data: imported by path, and checked before the first collective of training.

Every problem is a `UserCodeError` that says what was given and what is expected; an exception inside the user's own
code keeps its traceback.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.names import did_you_mean
from hvdtrain.train import compat
from hvdtrain.train.data import count
from hvdtrain.train.deal import tuples
from hvdtrain.train.stored import Mapped, StoredArray, gatherer
from hvdtrain.workshop.stand_in import StandIn

LOOKED_AT = 32  # examples of data that are made while training


@dataclass(frozen=True)
class Data:
    """What a data source returned.

    Args:
        train: (x, y) or (x, y, sample weights), with tuples and dicts of arrays in place of one, stored or not; or an
            unbatched `tf.data.Dataset` of such.
        test: The same for evaluation, or None.
        stands_in_for: The data set that is not at hand, if these are made up in its place.
        why: Why it is not.
    """

    train: Any
    test: Any
    stands_in_for: str | None = None
    why: str = ""

    @property
    def is_indexable(self) -> bool:
        """Whether the training data are arrays, whose order hvdtrain chooses."""
        return not isinstance(self.train, tf.data.Dataset)


def import_function(path: str, folder: Path) -> Callable[..., Any]:
    """Return the function that an import path names; modules beside the configuration are found first.

    Raises:
        UserCodeError: If module or function do not exist.
    """
    module_name, _, name = path.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not (error.name and (module_name == error.name or module_name.startswith(error.name + "."))):
            raise
        raise UserCodeError(
            f"{path}: there is no module {error.name!r}, neither in {folder} (beside the configuration) nor installed"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserCodeError(f"{path}: {module.__file__} has no function {name!r}{did_you_mean(name, known)}")
    return function


def call(path: str, folder: Path, args: dict[str, Any]) -> Any:
    """Import and call a function with the configuration's `args`.

    Raises:
        UserCodeError: If it does not take these arguments.
    """
    function = import_function(path, folder)
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        raise UserCodeError(
            f"{path}: cannot be called with args {args or '{}'}: {error}; it takes {inspect.signature(function)}"
        ) from error
    return function(**args)


def load_data(source: str, folder: Path, args: dict[str, Any], *, num_examples: int) -> Data:
    """Return the data, and verify that there are as many training examples as planned.

    Raises:
        UserCodeError: If the result is not in one of the accepted forms, or its size is not the planned one.
    """
    result = call(source, folder, args)
    if isinstance(result, tf.data.Dataset):
        result = (result, None)
    if not isinstance(result, tuple) or len(result) != 2:
        raise UserCodeError(
            f"{source} must return ((x_train, y_train), (x_test, y_test)), or (train, test) as unbatched tf.data "
            f"datasets; got {_describe(result)}"
        )
    data = Data(result[0], result[1])
    if isinstance(result, StandIn):
        data = replace(data, stands_in_for=result.name, why=result.why)
    found = _num_found(data.train, source)
    if found >= 0 and found != num_examples:
        raise UserCodeError(
            f"{source} returned {found} training examples, the plan says {num_examples}: set data.num_examples: {found}"
        )
    return data


def _num_found(train: Any, source: str) -> int:
    if isinstance(train, tf.data.Dataset):
        return int(train.cardinality())
    if isinstance(train, Mapped):
        return count(train)
    if not isinstance(train, tuple) or len(train) not in (2, 3):
        raise UserCodeError(
            f"{source}: the training data must be a pair (x, y) of arrays, or (x, y, sample weights); "
            f"got {_describe(train)}"
        )
    return count(train)


def check_arrays(data: Data, model: keras.Model, loss: str, source: str) -> None:
    """Find NaN, wrong shapes and labels out of range in the arrays, before anything is trained on them.

    Raises:
        UserCodeError: Naming the array, the first bad example and what is expected.
    """
    for name, part in (("train", data.train), ("test", data.test)):
        if part is None or isinstance(part, tf.data.Dataset):
            continue
        count(part)
        x, y, *weights = tuples(first_examples(part, f"{source}: {name}") if isinstance(part, Mapped) else part)
        _check_all_finite(x, f"{source}: x_{name}", "input")
        output_shape = _output_shape(model, x, f"{source}: x_{name}")
        _check_all_finite(y, f"{source}: y_{name}", "output")
        _check_all_finite(weights, f"{source}: sample weights of {name}", "output")
        if output_shape is not None and not tf.nest.is_nested(y):
            _check_labels(np.asarray(y), output_shape, loss, f"{source}: y_{name}")


def require_fit(model: keras.Model, x: Any, name: str) -> None:
    """Raise if inputs are not what the model takes.

    Raises:
        UserCodeError: Naming the shapes, or the first bad row.
    """
    _check_all_finite(x, name, "input")
    _output_shape(model, x, name)


def first_examples(data: Mapped, name: str) -> tuple[Any, ...]:
    """Return what a function makes of the first examples, as arrays: all of them would take too long to look at.

    Raises:
        UserCodeError: If it does not make pairs.
    """
    batch = gatherer(data)(tf.range(min(count(data.arrays), LOOKED_AT), dtype=tf.int64))
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        found = _describe(batch)
        raise UserCodeError(f"{name}: the function must make (x, y) or (x, y, sample weights) of a batch; got {found}")
    arrays: tuple[Any, ...] = tf.nest.map_structure(lambda tensor: tensor.numpy(), batch)
    return arrays


def _check_all_finite(arrays: Any, name: str, kind: str) -> None:
    for place, array in enumerate(tf.nest.flatten(arrays)):
        if isinstance(array, StoredArray):
            continue
        _check_finite(np.asarray(array), name + (f" ({kind} {place})" if place else ""))


def _check_finite(array: np.ndarray, name: str) -> None:
    if array.dtype.kind != "f" or len(array) == 0:
        return
    rows = array.reshape(len(array), -1)
    # A sum is finite only if every term is, save for overflow, which the exact look then clears.
    if np.isfinite(rows.sum(dtype=np.float64)):
        return
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserCodeError(
            f"{name} holds NaN or infinity in {len(bad)} of {len(array)} examples, the first is number {bad[0]}; "
            "clean the data, or mask such examples out"
        )


def _output_shape(model: keras.Model, x: Any, name: str) -> tuple[int | None, ...] | None:
    """Pass shapes, not values, through the model; this also builds a model that has no weights yet."""
    example = tf.nest.map_structure(
        lambda array: keras.KerasTensor((1, *np.shape(array)[1:]), dtype=keras.backend.standardize_dtype(array.dtype)),
        x,
    )
    try:
        output = keras.src.backend.compute_output_spec(model, example, training=False)
    except (ValueError, TypeError) as error:
        shapes = tf.nest.map_structure(lambda array: tuple(np.shape(array)[1:]), x)
        raise UserCodeError(
            f"{name}: the model does not take examples of shape {shapes}: {_first_line(error)}"
        ) from error
    return tuple(output.shape) if hasattr(output, "shape") else None


def _check_labels(y: np.ndarray, output_shape: tuple[int | None, ...], loss: str, name: str) -> None:
    num_outputs = output_shape[-1]
    if loss == "sparse_categorical_crossentropy" and num_outputs is not None:
        if y.ndim == len(output_shape) and y.shape[-1] != 1:
            raise UserCodeError(
                f"{name}: {loss} needs one class number per example, not {tuple(y.shape[1:])} values; "
                "for one-hot labels use categorical_crossentropy"
            )
        if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
            bad = y.flat[int(np.flatnonzero(y != np.round(y))[0])]
            raise UserCodeError(f"{name}: {loss} needs whole numbers as labels; got {y.dtype} values such as {bad}")
        low, high = (int(y.min()), int(y.max())) if y.size else (0, 0)
        if low < 0 or high >= num_outputs:
            bad = int(np.flatnonzero((y < 0) | (y >= num_outputs))[0])
            raise UserCodeError(
                f"{name}: labels go from {low} to {high}, but the model has {num_outputs} outputs, so they must be "
                f"0 to {num_outputs - 1}; the first bad one is example {bad}: {y.flat[bad]}"
            )
    elif loss == "categorical_crossentropy" and y.shape[1:] != tuple(output_shape[1:]):
        raise UserCodeError(
            f"{name}: {loss} needs one-hot labels of shape {tuple(output_shape[1:])}; got {y.shape[1:]}. "
            "For class numbers use sparse_categorical_crossentropy"
        )


def build_model(source: str, folder: Path, args: dict[str, Any]) -> keras.Model:
    """Return the user's Keras model.

    Raises:
        UserCodeError: If the function returns something else.
    """
    model = call(source, folder, args)
    if not isinstance(model, keras.Model):
        raise UserCodeError(f"{source} must return a keras.Model; got {_describe(model)}")
    return model


def require_weights(model: keras.Model, source: str) -> None:
    """Raise if the model has no weights to share.

    Raises:
        UserCodeError: If it is not built, or has nothing to train.
    """
    if not compat.is_built(model):
        raise UserCodeError(f"{source}: the model has no weights yet; give its first layer an Input shape")
    if not model.trainable_variables:
        raise UserCodeError(f"{source}: the model has no trainable weights")


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
