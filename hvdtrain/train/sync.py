"""One state on all ranks: give it, prove it, and name what differs.

Digests are compared, not values, so the proof costs a hash and a few bytes per variable.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import xxhash

from hvdtrain.errors import EnvironmentNotFitError, OutOfSyncError
from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.compat import to_array
from hvdtrain.train.nonfinite import is_finite


def shared_variables(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    """Return (name, variable) of everything that must be equal on all ranks: weights, statistics, optimizer slots."""
    seeds = {id(state) for state in compat.seed_states(model)}
    variables = [variable for variable in compat.unique(model.variables) if id(variable) not in seeds]
    return [(variable.path, variable) for variable in [*variables, *optimizer_variables(model)]]


def optimizer_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the optimizer's variables; none for a model that was not compiled, or without one."""
    optimizer = getattr(model, "optimizer", None)
    return list(optimizer.variables) if optimizer is not None else []


def equal_now(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    """Return those of the shared variables that must be equal at this moment.

    Between two updates of accumulated gradients ranks hold their own, and moving statistics of their own batches.
    """
    optimizer = model.optimizer
    accumulated = getattr(optimizer, "gradient_accumulation_steps", None)
    if not accumulated or compat.steps_taken(model) % accumulated == 0:
        return shared_variables(model)
    own = {id(variable) for variable in (*compat.accumulators(optimizer), *compat.moving_statistics(model))}
    return [(name, variable) for name, variable in shared_variables(model) if id(variable) not in own]


def plain_name(path: str) -> str:
    """Return a variable's path without the counters that Keras gives to layers made later in the same process.

    A second model of the same code then has the same names; places in the list keep them apart.

    >>> plain_name("adam/sequential_12_dense_24_kernel_momentum")
    'adam/sequential_dense_kernel_momentum'
    """
    return re.sub(r"_\d+(?=[/_]|$)", "", path)


def broadcast_state(model: keras.Model, comm: Comm) -> None:
    """Give every rank rank 0's weights, statistics, optimizer slots and random seeds."""
    variables = [variable for _, variable in shared_variables(model)]
    variables += [*compat.seed_states(model), compat.general_seed_state()]
    received = comm.broadcast_arrays([to_array(variable) for variable in variables], name="state")
    for variable, array in zip(variables, received, strict=True):
        variable.assign(array)
    fold_seeds(model, comm.rank)


def fold_seeds(model: keras.Model, rank: int) -> None:
    """Make random layers draw other numbers on each rank; the counter stays, so rank 0's state restores all."""
    for state in compat.seed_states(model):
        seed, counter = to_array(state)
        state.assign(np.array([folded_seed(int(seed), rank), counter], state.dtype))
    general = compat.general_seed_state()
    first, second = to_array(general)
    # Every draw takes both numbers one place further, so the second one stays ahead by the rank.
    general.assign(np.array([first, compat.drawn_ahead(int(second), rank)], general.dtype))


def folded_seed(seed: int, rank: int) -> int:
    """Return the seed of one rank: rank 0 keeps it, the others get one that follows from it.

    >>> folded_seed(7, 0), folded_seed(7, 1) != folded_seed(7, 2)
    (7, True)
    """
    if rank == 0:
        return seed
    text = f"{seed}:{rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") & 0x7FFFFFFF


def digest(array: np.ndarray) -> str:
    """Return a 64-bit hash of an array's exact bits, at the speed of memory; it guards against accidents."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def nonfinite_names(model: keras.Model) -> list[str]:
    """Return the names of those shared variables that hold NaN or infinity on this rank."""
    return [name for name, variable in shared_variables(model) if not is_finite(to_array(variable))]


def prove_in_sync(model: keras.Model, comm: Comm, *, step: int) -> str:
    """Compare every shared variable across ranks, bit by bit, and return the digest of them all.

    Raises:
        OutOfSyncError: On all ranks alike, naming the variables and the ranks that differ.
    """
    names, arrays = zip(*((name, to_array(variable)) for name, variable in equal_now(model)), strict=True)
    # Scalars first: a bad learning rate is a cause, and the weights it spoilt are not.
    scalars_first = sorted(zip(names, arrays, strict=True), key=lambda item: item[1].ndim > 0)
    bad = [name for name, array in scalars_first if not is_finite(array)]
    mine = {"digests": [digest(array) for array in arrays], "nonfinite": bad[:3], "step": step}
    gathered = comm.gather_json(mine, name="digests")
    step = min(entry["step"] for entry in gathered)  # the counter itself may differ
    _raise_nonfinite(gathered, step)
    differing = find_differences(names, [entry["digests"] for entry in gathered])
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise OutOfSyncError(
            f"replicas out of sync at step {step}: {shown}. Weights from here on would mean nothing, so training "
            "stops; the newest checkpoint was saved in sync. Look for code that changes weights on some ranks only"
        )
    return xxhash.xxh3_64_hexdigest("".join(gathered[0]["digests"]).encode())


def _raise_nonfinite(gathered: list[dict[str, Any]], step: int) -> None:
    found = [f"{name} on rank {rank}" for rank, entry in enumerate(gathered) for name in entry["nonfinite"]]
    if found:
        raise nonfinite_error(step, found)


def nonfinite_error(step: int, found: Sequence[str]) -> OutOfSyncError:
    """Return the error about values that are not finite.

    Args:
        step: The first bad one that is known.
        found: Names with their ranks.
    """
    more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
    return OutOfSyncError(
        f"not finite at step {step}: {', '.join(found[:4])}{more} holds NaN or infinity; no later checkpoint is "
        "written. Usual causes: the learning rate is too high (see `hvdtrain plan`), or the data hold such values"
    )


def find_differences(names: Sequence[str], by_rank: Sequence[Sequence[str]]) -> list[str]:
    """Return a sentence for each variable whose digest is not the same on all ranks; the minority is named.

    >>> find_differences(["w", "b"], [["1", "2"], ["1", "3"], ["1", "2"]])
    ['b differs on rank 1']
    >>> find_differences(["w"], [["1"], ["2"]])
    ['w differs between ranks 0 and 1']
    """
    lengths = {len(digests) for digests in by_rank}
    if len(lengths) > 1:
        counts = ", ".join(f"rank {rank}: {len(digests)}" for rank, digests in enumerate(by_rank))
        return [f"the number of variables differs ({counts})"]
    found = []
    for place, name in enumerate(names):
        column = [digests[place] for digests in by_rank]
        most = max(set(column), key=lambda digest: (column.count(digest), -column.index(digest)))
        odd = [rank for rank, digest in enumerate(column) if digest != most]
        if odd and column.count(most) > len(column) / 2:
            found.append(f"{name} differs on rank{'s' if len(odd) > 1 else ''} {', '.join(map(str, odd))}")
        elif odd:
            found.append(f"{name} differs between ranks {' and '.join(str(r) for r in range(len(column)))}")
    return found


def preflight(model: keras.Model, comm: Comm, *, facts: dict[str, Any]) -> None:
    """Compare across ranks what would otherwise deadlock: variables, shapes, order, step counts, plan.

    Raises:
        EnvironmentNotFitError: On all ranks alike, naming the first thing that differs.
    """
    variables = shared_variables(model)
    shapes = [[plain_name(name), list(variable.shape), str(variable.dtype)] for name, variable in variables]
    gathered = comm.gather_json({"variables": shapes, **facts}, name="preflight")
    for key in gathered[0]:
        for rank, entry in enumerate(gathered):
            if entry[key] != gathered[0][key]:
                ours, theirs = _first_difference(gathered[0][key], entry[key])
                raise EnvironmentNotFitError(
                    f"ranks disagree before the first step, and training would hang: {key} is {ours} on rank 0 "
                    f"and {theirs} on rank {rank}; every rank must build the same model and see the same plan"
                )


def _first_difference(ours: Any, theirs: Any) -> tuple[Any, Any]:
    if isinstance(ours, list) and isinstance(theirs, list):
        for a, b in zip(ours, theirs, strict=False):
            if a != b:
                return a, b
        return f"a list of {len(ours)}", f"a list of {len(theirs)}"
    return ours, theirs
