"""Speed-up laws: Amdahl, Gustafson, Karp-Flatt, and the universal scalability law, each with its error.

Sizes are counted in baselines: with a baseline of 2 ranks, 8 ranks are size 4.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_RESAMPLES = 1000

Speedups = Mapping[Any, Sequence[float]]  # by size


@dataclass(frozen=True)
class Fit:
    """One law fitted to measured speed-ups, or why it was not.

    Args:
        law: Its name.
        parameters: Name -> (value, low, high) with the 95 % interval of a bootstrap over the repeats.
        error: Root mean square of the relative differences between law and measurement.
        peak: The size beyond which the law says that more ranks make training slower; None if there is none.
        refused: Why there is no fit; empty if there is one.
    """

    law: str
    parameters: dict[str, tuple[float, float, float]]
    error: float | None
    peak: float | None = None
    refused: str = ""


def karp_flatt(speedup: float, size: float) -> float:
    """Return the serial fraction that a speed-up shows by itself (Karp and Flatt 1990).

    Rising with the size means that overhead grows, and not only a fixed part stays serial.

    >>> karp_flatt(1.0, 4), karp_flatt(4.0, 4)
    (1.0, 0.0)
    """
    return (1 / speedup - 1 / size) / (1 - 1 / size)


def amdahl(size: float, serial: float) -> float:
    """Return the speed-up of a fixed problem with a serial fraction (Amdahl 1967).

    >>> amdahl(4, 0.0), amdahl(4, 1.0)
    (4.0, 1.0)
    """
    return 1 / (serial + (1 - serial) / size)


def gustafson(size: float, serial: float) -> float:
    """Return the scaled speed-up of a problem that grows with the size (Gustafson 1988).

    >>> gustafson(4, 0.0), gustafson(4, 1.0)
    (4.0, 1.0)
    """
    return size - serial * (size - 1)


def universal(size: float, contention: float, coherency: float) -> float:
    """Return the speed-up of the universal scalability law (Gunther 2007).

    >>> universal(4, 0.0, 0.0)
    4.0
    """
    return size / (1 + contention * (size - 1) + coherency * size * (size - 1))


def fit_amdahl(speedups: Speedups) -> Fit:
    """Return Amdahl's law fitted to a strong-scaling study: 1/S is linear in 1/size."""
    return _fit("Amdahl", speedups, 2, _serial_of_amdahl, amdahl, ("serial fraction",))


def fit_gustafson(speedups: Speedups) -> Fit:
    """Return Gustafson's law fitted to a weak-scaling study."""
    return _fit("Gustafson", speedups, 2, _serial_of_gustafson, gustafson, ("serial fraction",))


def fit_universal(speedups: Speedups) -> Fit:
    """Return the universal scalability law fitted to a study; both its parameters are at least 0."""
    names = ("contention", "coherency")
    found = _fit("universal scalability", speedups, 3, _contention_and_coherency, universal, names)
    if found.refused or found.parameters["coherency"][0] <= 0:
        return found
    contention, coherency = (found.parameters[name][0] for name in names)
    peak = math.sqrt(max(1.0, (1 - contention) / coherency))
    return Fit(found.law, found.parameters, found.error, peak)


def _fit(
    law: str,
    speedups: Speedups,
    min_sizes: int,
    solve: Callable[[Sequence[float], Sequence[float]], tuple[float, ...]],
    model: Callable[..., float],
    names: tuple[str, ...],
) -> Fit:
    sizes = sorted(size for size in speedups if size > 1 and speedups[size])
    if len(sizes) < min_sizes:
        why = f"needs {min_sizes} sizes besides the baseline, and this study has {len(sizes)}"
        return Fit(law, {}, None, refused=why)
    middle = [statistics.median(speedups[size]) for size in sizes]
    values = solve(sizes, middle)
    error = math.sqrt(
        sum((model(size, *values) / found - 1) ** 2 for size, found in zip(sizes, middle, strict=True)) / len(sizes)
    )
    chosen = random.Random(0)
    again = [
        solve(sizes, [statistics.median(chosen.choices(speedups[size], k=len(speedups[size]))) for size in sizes])
        for _ in range(NUM_RESAMPLES)
    ]
    spread = {}
    for place, name in enumerate(names):
        drawn = sorted(one[place] for one in again)
        spread[name] = (values[place], drawn[int(0.025 * NUM_RESAMPLES)], drawn[int(0.975 * NUM_RESAMPLES) - 1])
    return Fit(law, spread, error)


def _serial_of_amdahl(sizes: Sequence[float], speedups: Sequence[float]) -> tuple[float]:
    x = [1 - 1 / size for size in sizes]
    y = [1 / speedup - 1 / size for size, speedup in zip(sizes, speedups, strict=True)]
    return (_slope(x, y),)


def _serial_of_gustafson(sizes: Sequence[float], speedups: Sequence[float]) -> tuple[float]:
    x = [size - 1 for size in sizes]
    y = [size - speedup for size, speedup in zip(sizes, speedups, strict=True)]
    return (_slope(x, y),)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of a line through the origin, from 0 to 1."""
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
    return min(1.0, max(0.0, slope))


def _contention_and_coherency(sizes: Sequence[float], speedups: Sequence[float]) -> tuple[float, float]:
    """Solve size/S - 1 = contention (size - 1) + coherency size (size - 1), neither below 0.

    Each size counts by its relative error.
    """
    x = np.array([[size - 1, size * (size - 1)] for size in sizes], float)
    y = np.array([size / speedup - 1 for size, speedup in zip(sizes, speedups, strict=True)])
    weights = np.array([speedup / size for size, speedup in zip(sizes, speedups, strict=True)])
    return _non_negative(x * weights[:, None], y * weights)


def _non_negative(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the best pair of numbers that are not negative: the free solution, or the best one on an edge."""
    free, *_ = np.linalg.lstsq(x, y, rcond=None)
    candidates = [(0.0, 0.0)]
    for place in (0, 1):
        alone = float(x[:, place] @ y / (x[:, place] @ x[:, place]))
        if alone > 0:
            candidates.append((alone, 0.0) if place == 0 else (0.0, alone))
    if (free >= 0).all():
        candidates.append((float(free[0]), float(free[1])))
    return min(candidates, key=lambda pair: float(((x @ np.array(pair) - y) ** 2).sum()))
