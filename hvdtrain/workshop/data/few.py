"""Training on a few examples of each class."""

from __future__ import annotations

import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.workshop.stand_in import Examples, Split, StandIn


def few(data: Examples, examples_per_class: int | None, seed: int) -> Examples:
    """Return so many examples of each class, drawn with a seed.

    Raises:
        UserCodeError: If a class has fewer.
    """
    if examples_per_class is None:
        return data
    x, y = data
    smallest = int(np.bincount(y).min())
    if not 1 <= examples_per_class <= smallest:
        raise UserCodeError(f"examples_per_class must be 1 to {smallest}; got {examples_per_class}")
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = np.concatenate([order[y[order] == label][:examples_per_class] for label in np.unique(y)])
    return x[chosen], y[chosen]


def few_of(split: Split, examples_per_class: int | None, seed: int) -> Split:
    """Return the split with so many examples of each class to train on; what is a stand-in stays one."""
    train, test = split
    fewer = (few(train, examples_per_class, seed), test)
    return StandIn(fewer, split.name, split.why) if isinstance(split, StandIn) else fewer
