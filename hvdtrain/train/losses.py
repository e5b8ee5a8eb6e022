"""The loss a configuration names: one of Keras's, or what a function of the user's returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from hvdtrain.errors import UserCodeError
from hvdtrain.names import did_you_mean
from hvdtrain.train.user_code import call


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
        return loss
    known = classes()
    if loss not in known:
        raise UserCodeError(f"loss_args: Keras has no loss {loss!r} with arguments{did_you_mean(loss, known)}")
    try:
        return known[loss](**args)
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"loss {loss} with {dict(args)}: {error}") from error


def classes() -> dict[str, type[keras.losses.Loss]]:
    """Return Keras's losses that take arguments, by the names that `compile` takes."""
    found = [kind for kind in vars(keras.losses).values() if isinstance(kind, type) and kind is not keras.losses.Loss]
    return {keras.src.utils.naming.to_snake_case(kind.__name__): kind for kind in found}
