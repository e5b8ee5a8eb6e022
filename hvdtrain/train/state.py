"""Between a live model and a checkpoint: named arrays out of it, and back into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from hvdtrain.train import compat
from hvdtrain.train.checkpoint import Checkpoint, match_arrays
from hvdtrain.train.compat import to_array
from hvdtrain.train.sync import plain_name, shared_variables


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return every variable a checkpoint holds, under a name that is unique and readable.

    The position comes first because two layers may share a path; the optimizer's variables come last.
    """
    shared = shared_variables(model)
    seeds = [(state.path, state) for state in (*compat.seed_states(model), compat.general_seed_state())]
    num_optimizer = len(model.optimizer.variables) if model.optimizer is not None else 0
    own, slots = shared[: len(shared) - num_optimizer], shared[len(shared) - num_optimizer :]
    groups = {"model": own, "seed": seeds, "optimizer": slots}
    return {
        f"{group}/{place:05d}/{plain_name(path)}": variable
        for group, variables in groups.items()
        for place, (path, variable) in enumerate(variables)
    }


def capture(
    model: keras.Model, *, step: int, state: dict[str, Any], more: Mapping[str, np.ndarray] | None = None
) -> Checkpoint:
    """Return a snapshot of everything the run needs to go on, with `more` than the model itself holds."""
    arrays = {name: to_array(variable).copy() for name, variable in named_variables(model).items()}
    return Checkpoint(step=step, state=state, arrays={**arrays, **(more or {})})


def restore(
    model: keras.Model, checkpoint: Checkpoint, *, with_optimizer: bool = True, with_seeds: bool = True
) -> None:
    """Put a checkpoint's values into a model built from code.

    Raises:
        CorruptError: If names or shapes do not fit; nothing is assigned then.
    """
    groups = ("model/", *["seed/"] * with_seeds, *["optimizer/"] * with_optimizer)
    variables = {name: variable for name, variable in named_variables(model).items() if name.startswith(groups)}
    arrays = {name: array for name, array in checkpoint.arrays.items() if name.startswith(groups)}
    match_arrays(arrays, {name: tuple(variable.shape) for name, variable in variables.items()})
    for name, variable in variables.items():
        variable.assign(_typed(arrays[name], variable))


def _typed(array: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """Return an array with its type: NumPy itself has no bfloat16 and stores the bits without a name."""
    return array.view(to_array(variable).dtype) if array.dtype.kind == "V" else array
