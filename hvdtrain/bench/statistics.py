"""From raw rows to ratios: per round, then their median with an interval. Pure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

NUM_RESAMPLES = 10_000
T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """The median of some values, how far they spread, and how sure it is.

    Args:
        n: Number of values.
        median: Their median.
        low: Lower end of the bootstrap 95 % interval of the median.
        high: Upper end.
        first_quartile: A quarter of the values lie below.
        third_quartile: A quarter of the values lie above.
    """

    n: int
    median: float
    low: float
    high: float
    first_quartile: float
    third_quartile: float


def paired_ratios(above: Mapping[int, float], below: Mapping[int, float]) -> list[float]:
    """Return one ratio for each round in which both were measured.

    >>> paired_ratios({0: 3.0, 1: 2.0}, {1: 4.0, 2: 1.0})
    [0.5]
    """
    return [above[number] / below[number] for number in sorted(above) if number in below]


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the estimate of at least one value, or None without any."""
    if not values:
        return None
    low, high = bootstrap_interval(values)
    first, _, third = quartiles(values)
    return Estimate(len(values), statistics.median(values), low, high, first, third)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the three quartiles, interpolated between the values.

    >>> quartiles([1, 2, 3, 4, 5])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return (float(values[0]),) * 3
    first, second, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, second, third


def bootstrap_interval(values: Sequence[float], num_resamples: int = NUM_RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile interval of the median; the same values always give the same interval."""
    chosen = random.Random(0)
    medians = sorted(statistics.median(chosen.choices(values, k=len(values))) for _ in range(num_resamples))
    return medians[int(0.025 * num_resamples)], medians[int(0.975 * num_resamples) - 1]


def rotated(items: Sequence[T], number: int) -> list[T]:
    """Return the items beginning with another one each round, so that no arm always comes first.

    >>> rotated(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = number % len(items)
    return [*items[start:], *items[:start]]
