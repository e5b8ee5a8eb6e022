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
from hvdtrain.train.stored import Mapped, StoredArray, gatherer, require_same_classes
from hvdtrain.workshop.stand_in import StandIn

OWN_WAYS = ("train_step", "compute_loss", "compute_metrics")  # methods of Keras's that a model may replace
WORDS, OBJECTS = "US", "OmM"  # kinds of NumPy's types
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


@dataclass(frozen=True)
class Labels:
    """What the loss takes as labels.

    Args:
        loss: Keras's name of its function, or an import path.
        ignored: A class number that stands for no class (`ignore_class`).
    """

    loss: str
    ignored: int | None = None


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
    found = _num_found(data.train, f"{source}: the training data")
    if found >= 0 and found != num_examples:
        if isinstance(data.train, tf.data.Dataset) and is_batched(data.train):
            raise UserCodeError(f"{source}: the training dataset is batched already; return it without batch(...)")
        raise UserCodeError(
            f"{source} returned {found} training examples, the plan says {num_examples}: set data.num_examples: {found}"
        )
    if data.test is not None:
        _num_found(data.test, f"{source}: the test data")
        require_same_classes(data.train, data.test, source)
    return data


def _num_found(part: Any, name: str) -> int:
    if isinstance(part, tf.data.Dataset):
        return int(part.cardinality())
    if isinstance(part, Mapped):
        return count(part)
    if not isinstance(part, tuple) or len(part) not in (2, 3):
        raise UserCodeError(
            f"{name} must be a pair (x, y) of arrays, or (x, y, sample weights); got {_describe(part)}"
        )
    return count(part)


def is_batched(dataset: tf.data.Dataset) -> bool:
    """Tell whether all that a dataset yields begins with a dimension whose size is open, as `batch` leaves it."""
    shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(dataset.element_spec)]
    return all(shape is not None and shape.rank and shape[0] is None for shape in shapes)


def check_arrays(data: Data, model: keras.Model, labels: Labels, source: str) -> None:
    """Find NaN, wrong shapes and labels out of range in the arrays, before anything is trained on them.

    Raises:
        UserCodeError: Naming the array, the first bad example and what is expected.
    """
    for name, part in (("train", data.train), ("test", data.test)):
        if part is None or isinstance(part, tf.data.Dataset):
            continue
        count(part)
        x, y, *weights = tuples(first_examples(part, f"{source}: {name}") if isinstance(part, Mapped) else part)
        _check_all_numbers(x, f"{source}: x_{name}")
        _check_all_numbers(y, f"{source}: y_{name}")
        _check_all_finite(x, f"{source}: x_{name}", "input")
        output_shape = _output_shape(model, x, f"{source}: x_{name}")
        _check_all_finite(y, f"{source}: y_{name}", "output")
        _check_all_finite(weights, f"{source}: sample weights of {name}", "output")
        if output_shape is not None and not tf.nest.is_nested(y):
            _check_labels(np.asarray(y), output_shape, labels, f"{source}: y_{name}")


def check_compiled(data: Data, model: keras.Model, loss: str, source: str) -> None:
    """Let Keras apply loss and metrics to shapes of the data, before anything is trained.

    Models that train in a way of their own are not looked at.

    Raises:
        UserCodeError: If they do not fit each other.
    """
    if any(getattr(type(model), name) is not getattr(keras.Model, name) for name in OWN_WAYS):
        return
    batch = _shapes_of_a_batch(data.train)
    if batch is None:
        return
    try:
        compat.build_metrics(model, batch)
    except (ValueError, TypeError) as error:
        shapes = tf.nest.map_structure(lambda spec: tuple(spec.shape)[1:], batch[1])
        raise UserCodeError(
            f"{source}: loss {loss} or metrics do not fit labels of shape {shapes} and what the model makes of x: "
            f"{_first_line(error)}"
        ) from error


def _shapes_of_a_batch(train: Any) -> Any:
    """Return (x, y) or (x, y, weights) as `tf.TensorSpec`, any number of examples; None if shapes are not so simple."""
    if isinstance(train, tf.data.Dataset):
        specs = tf.nest.flatten(train.element_spec)
        if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in specs):
            return None
        return tf.nest.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype), train.element_spec)
    arrays = tuples(first_examples(train, "train") if isinstance(train, Mapped) else train)
    return tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), arrays)


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


def _check_all_numbers(arrays: Any, name: str) -> None:
    for array in tf.nest.flatten(arrays):
        dtype = getattr(array, "dtype", None)
        if isinstance(dtype, np.dtype) and dtype.kind in WORDS + OBJECTS:
            what = "words" if dtype.kind in WORDS else "objects, such as words or rows of different lengths"
            raise UserCodeError(f"{name} holds {what} (dtype {dtype}), and a model takes numbers")


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


def _check_labels(y: np.ndarray, output_shape: tuple[int | None, ...], labels: Labels, name: str) -> None:
    num_classes = output_shape[-1]
    if labels.loss == "sparse_categorical_crossentropy" and num_classes is not None:
        _check_class_numbers(y, len(output_shape), num_classes, labels, name)
    elif labels.loss == "categorical_crossentropy" and y.shape[1:] != tuple(output_shape[1:]):
        raise UserCodeError(
            f"{name}: {labels.loss} needs one-hot labels of shape {tuple(output_shape[1:])}; got {y.shape[1:]}. "
            "For class numbers use sparse_categorical_crossentropy"
        )


def _check_class_numbers(y: np.ndarray, output_rank: int, num_classes: int, labels: Labels, name: str) -> None:
    if y.ndim == output_rank and y.shape[-1] != 1:
        raise UserCodeError(
            f"{name}: {labels.loss} needs one class number per example, not {tuple(y.shape[1:])} values; "
            "for one-hot labels use categorical_crossentropy"
        )
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
        bad = y.flat[int(np.flatnonzero(y != np.round(y))[0])]
        raise UserCodeError(f"{name}: {labels.loss} needs whole numbers as labels; got {y.dtype} values such as {bad}")
    is_counted = np.ones(y.shape, bool) if labels.ignored is None else y != labels.ignored
    counted = y[is_counted]
    low, high = (int(counted.min()), int(counted.max())) if counted.size else (0, 0)
    if low < 0 or high >= num_classes:
        place = int(np.flatnonzero(is_counted & ((y < 0) | (y >= num_classes)))[0])
        raise UserCodeError(
            f"{name}: labels go from {low} to {high}, but the model has {num_classes} outputs, so they must be "
            f"0 to {num_classes - 1}; the first bad one is example {place * len(y) // y.size}: {y.flat[place]}"
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
