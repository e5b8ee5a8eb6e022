"""House prices: what regression looks like. Features are standardised, prices are in 1000 dollars."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.fetch import fetch
from hvdtrain.known_data import HOUSES
from hvdtrain.workshop import made_up
from hvdtrain.workshop.stand_in import ALLOWED, Examples, Split, StandIn, read_explained, real_or_stand_in

SHUFFLE_SEED = 113  # Keras's own, so that its split is ours


def boston_housing(stand_in: str = ALLOWED) -> Split:
    """Return Boston housing, 404 and 102 districts of 1978 with 13 features, prices in 1000 dollars.

    The data set is disputed, and Keras advises against it: one feature ("B") is made of the share of Black residents,
    on the assumption that segregation raises prices. `california_housing` is the alternative.

    Args:
        stand_in: Whether made-up houses may take its place: `allowed` where it is not at hand, `never`, `always`.
    """
    return _houses("boston_housing", _read_boston, 13, 22.5, stand_in)


def california_housing(stand_in: str = ALLOWED) -> Split:
    """Return California housing, 16,512 and 4,128 districts of 1990 with 8 features, prices in 1000 dollars.

    Args:
        stand_in: Whether made-up houses may take its place: `allowed` where it is not at hand, `never`, `always`.
    """
    return _houses("california_housing", _read_california, 8, 207.0, stand_in)


def boston_housing_inputs(rows: np.ndarray) -> np.ndarray:
    """Return rows of Boston's 13 features as the network has learned them: standardised as its training data are."""
    return _standardised_alike("boston_housing", _read_boston, rows)


def california_housing_inputs(rows: np.ndarray) -> np.ndarray:
    """Return rows of California's 8 features as the network has learned them: standardised as its training data are."""
    return _standardised_alike("california_housing", _read_california, rows)


def _houses(name: str, read: Callable[[Path], Split], num_features: int, typical: float, stand_in: str) -> Split:
    num_train, num_test = HOUSES[name]
    split = real_or_stand_in(
        name, read, lambda: made_up.houses(num_train, num_test, num_features, typical_price=typical), stand_in
    )
    train, test = split
    standardise = standardiser(train[0])
    same_scale = (standardise(train[0]), _prices(train[1])), (standardise(test[0]), _prices(test[1]))
    return StandIn(same_scale, split.name, split.why) if isinstance(split, StandIn) else same_scale


def standardiser(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that gives each of these features mean 0 and deviation 1.

    Made of the training data alone: a test set must not have a say in how it is looked at.
    """
    mean, deviation = features.mean(0), features.std(0)
    return lambda rows: ((rows - mean) / deviation).astype(np.float32)


def _prices(prices: np.ndarray) -> np.ndarray:
    return prices.astype(np.float32)


def _read_boston(place: Path) -> Split:
    return _shuffled_and_split(place, dollars=1000)


def _read_california(place: Path) -> Split:
    return _shuffled_and_split(place, dollars=1)


def _shuffled_and_split(place: Path, *, dollars: int) -> Split:
    """Return Keras's split: four fifths for training, after one shuffle.

    Args:
        place: An .npz file with `x` and `y`.
        dollars: What one unit of `y` stands for.
    """
    with np.load(place, allow_pickle=False) as arrays:
        x, y = arrays["x"].astype(np.float64), arrays["y"] * (dollars / 1000)
    order = np.arange(len(x))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    num_train = int(len(x) * 0.8)
    return _rows(x, y, order[:num_train]), _rows(x, y, order[num_train:])


def _rows(x: np.ndarray, y: np.ndarray, which: np.ndarray) -> Examples:
    return x[which], y[which]


def _standardised_alike(name: str, read: Callable[[Path], Split], rows: np.ndarray) -> np.ndarray:
    try:
        place = fetch(name, os.environ)
    except HvdtrainError as error:
        raise UserCodeError(f"features are standardised as {name} is, which is not at hand: {error}") from error
    (features, _), _ = read_explained(name, place, read)
    if rows.ndim != 2 or rows.shape[1] != features.shape[1]:
        raise UserCodeError(f"{name} has {features.shape[1]} features in a row; got rows of shape {rows.shape[1:]}")
    return standardiser(features)(rows)
