"""The loss and the metrics a configuration names: Keras's, or a loss that a function of the user's returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from hvdtrain.errors import UserCodeError
from hvdtrain.names import did_you_mean
from hvdtrain.train.user_code import call

BY_LABELS = ("crossentropy", "ce")  # Keras chooses the one that fits labels and outputs


def make_loss(loss: str, args: Mapping[str, Any], folder: Path) -> Any:
    """Return what `model.compile` takes as its loss.

    Args:
        loss: Keras's name, or an import path of a function or class that returns a loss.
        args: Its keyword arguments.
        folder: Where the user's modules are looked for first.

    Raises:
        UserCodeError: If there is no such loss, or it does not take these arguments.
    """
    if ":" in loss:
        made = call(loss, folder, dict(args))
        if not callable(made):
            raise UserCodeError(f"{loss} must return a loss: a keras.losses.Loss or a function; got {made!r}")
        return made
    if not args:
        if loss.lower() not in BY_LABELS and loss not in keras.src.losses.ALL_OBJECTS_DICT:
            raise UserCodeError(
                f"loss: Keras has no loss {loss!r} (one of your own is module:function){did_you_mean(loss, names())}"
            )
        return loss
    known, loss = classes(), snake_case(loss)
    if loss not in known:
        raise UserCodeError(f"loss_args: Keras has no loss {loss!r} with arguments{did_you_mean(loss, known)}")
    try:
        return known[loss](**args)
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"loss {loss} with {dict(args)}: {error}") from error


def make_metrics(metrics: Sequence[str], num_outputs: int) -> list[Any]:
    """Return what `model.compile` takes as its metrics: all of them for each output.

    Raises:
        UserCodeError: If Keras has no such metric, or one that needs arguments.
    """
    known = keras.src.metrics.ALL_OBJECTS_DICT
    for name in metrics:
        if name.lower() in ("accuracy", "acc"):
            continue
        if name not in known:
            suggestion = did_you_mean(name, ["accuracy", *known])
            raise UserCodeError(f"metrics: Keras has no metric {name!r}{suggestion}")
        try:
            keras.metrics.get(name)
        except TypeError as error:
            raise UserCodeError(f"metrics: {name} needs arguments, and names are all there is: {error}") from error
    return list(metrics) if num_outputs == 1 else [list(metrics)] * num_outputs


def snake_case(loss: str) -> str:
    """Return the name of Keras's function for a loss that is named by its class; any other name as it is.

    >>> snake_case("SparseCategoricalCrossentropy"), snake_case("mse")
    ('sparse_categorical_crossentropy', 'mse')
    """
    is_class = isinstance(keras.src.losses.ALL_OBJECTS_DICT.get(loss), type)
    return str(keras.src.utils.naming.to_snake_case(loss)) if is_class else loss


def names() -> list[str]:
    """Return the names of Keras's losses that a configuration may give."""
    return [*BY_LABELS, *(name for name in keras.src.losses.ALL_OBJECTS_DICT if not name.startswith("Loss"))]


def classes() -> dict[str, type[keras.losses.Loss]]:
    """Return Keras's losses that take arguments, by the names that `compile` takes."""
    found = [kind for kind in vars(keras.losses).values() if isinstance(kind, type) and kind is not keras.losses.Loss]
    return {keras.src.utils.naming.to_snake_case(kind.__name__): kind for kind in found}
