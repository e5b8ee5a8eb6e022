"""A run's hyperparameters, as TensorBoard's HParams compares runs by them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What is trained: blocks of the configuration, and single keys, as dotted paths.
SOURCES = ("model.source", "model.args", "data.source", "data.augment", "training", "optimizer", "loss", "loss_args")
Scalar = bool | int | float | str


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the scalars of what is trained, by the key that `--set` takes; what is null is not there.

    >>> hyperparameters({"model": {"source": "m:f", "args": {"units": 64}}, "data": {"source": "m:d", "augment": None},
    ...     "training": {"epochs": 3, "steps": None}, "optimizer": {"schedule_args": {"power": 2.0}}, "loss": "mse",
    ...     "loss_args": {}})
    {'model.source': 'm:f', 'model.args.units': 64, 'data.source': 'm:d', 'training.epochs': 3, \
'optimizer.schedule_args.power': 2.0, 'loss': 'mse'}
    """
    found: dict[str, Scalar] = {}
    for source in SOURCES:
        value: Any = config
        for key in source.split("."):
            value = value[key]
        found |= _leaves(source, value)
    return found


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif isinstance(value, Scalar):
        yield key, value
