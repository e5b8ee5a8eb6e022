"""Which parameter mattered: means by value, and how often chance alone makes as much of a difference. Pure.

The p-values are of a permutation test of each parameter beside the others in an additive model: Freedman and Lane 1983,
https://doi.org/10.1080/07350015.1983.10509354
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdtrain.study.sweep_space import short_names, value_text
from hvdtrain.study.sweep_table import FAILED, FINISHED, Outcome, Sweep

NUM_SHUFFLES = 1999
SIGNIFICANT = 0.05
MOST_LEVELS = 6  # more numbers than that are taken together in bins
NUM_BINS = 3
HEAD = ("parameter", "best", "mean", "worst", "mean", "difference", "p", "")


@dataclass(frozen=True)
class Effect:
    """What a parameter makes of the metric, on average over the other parameters.

    Args:
        key: The parameter.
        means: Value, or bin of values, in words -> mean of the metric, in the parameter's order.
        p: How often shuffled trials show as much of a difference; None with too few trials to tell.
        is_max: Whether a larger value is better.
    """

    key: str
    means: Mapping[str, float]
    p: float | None
    is_max: bool

    @property
    def best(self) -> str:
        """The best value."""
        return (max if self.is_max else min)(self.means, key=self.means.__getitem__)

    @property
    def worst(self) -> str:
        """The worst value."""
        return (min if self.is_max else max)(self.means, key=self.means.__getitem__)

    @property
    def difference(self) -> float:
        """Between the means of the best and of the worst value."""
        return abs(self.means[self.best] - self.means[self.worst])

    @property
    def verdict(self) -> str:
        """What that means, in words."""
        if self.p is None:
            return "too few trials to tell"
        return "matters" if self.p < SIGNIFICANT else "cannot be told from noise"


def effects(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Effect]:
    """Return the effect of every parameter that took several values, the largest first.

    Trials are compared at the same age: after the first stage of successive halving, else at their end.
    """
    if sweep.stages:
        age = sweep.stages[0].epochs
        there = [one for one in outcomes if age in one.scores and one.state != FAILED]
        scores = np.array([one.scores[age] for one in there])
    else:
        there = [one for one in outcomes if one.scores and one.state == FINISHED]
        scores = np.array([one.score for one in there])
    levels = {key: levels_of([one.trial.values[key] for one in there]) for key in sweep.keys}
    levels = {key: found for key, found in levels.items() if len(set(found)) > 1}
    found = []
    for key, mine in levels.items():
        others = [other for name, other in levels.items() if name != key]
        means = {
            level: statistics.fmean(score for score, at in zip(scores.tolist(), mine, strict=True) if at == level)
            for level in dict.fromkeys(_in_order([one.trial.values[key] for one in there], mine))
        }
        found.append(Effect(key, means, chance(scores, mine, others), sweep.is_max))
    return sorted(found, key=lambda one: -one.difference)


def levels_of(values: Sequence[Any]) -> list[str]:
    """Return what each value counts as: itself, or one of a few bins with as many values in each.

    >>> levels_of([1, 2, "x"]), levels_of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])[::3]
    (['1', '2', 'x'], ['0.1 to 0.3', '0.4 to 0.5', '0.6 to 0.7'])
    """
    is_many = len({json.dumps(value, sort_keys=True) for value in values}) > MOST_LEVELS
    if not is_many or not all(_is_number(value) for value in values):
        return [value_text(value) for value in values]
    rising = sorted(set(values))
    bins = [part.tolist() for part in np.array_split(np.array(rising), NUM_BINS)]
    names = [f"{value_text(part[0])} to {value_text(part[-1])}" for part in bins]
    return [next(name for name, part in zip(names, bins, strict=True) if value <= part[-1]) for value in values]


def chance(scores: np.ndarray, mine: Sequence[str], others: Sequence[Sequence[str]]) -> float | None:
    """Return how often chance makes as much of a difference as a parameter; None if nothing is left to tell by.

    The other parameters' own effects are taken away first. Where there are too few trials for that, they stay noise.

    Args:
        scores: One per trial.
        mine: The parameter's value in each trial.
        others: The same of the other parameters.
    """
    reduced, whole = _design(others, len(scores)), _design([*others, mine], len(scores))
    if np.linalg.matrix_rank(whole) >= len(scores):
        reduced, whole = _design([], len(scores)), _design([mine], len(scores))
    rank = int(np.linalg.matrix_rank(whole))
    if rank >= len(scores) or rank == np.linalg.matrix_rank(reduced):
        return None
    expected = reduced @ np.linalg.lstsq(reduced, scores, rcond=None)[0]
    rest = scores - expected
    random = np.random.default_rng(0)
    shuffled = np.stack([expected + rest[random.permutation(len(rest))] for _ in range(NUM_SHUFFLES)], axis=1)
    gains = _gain(np.column_stack([scores, shuffled]), reduced, whole)
    return float((1 + np.sum(gains[1:] >= gains[0] * (1 - 1e-9))) / (1 + NUM_SHUFFLES))


def _gain(columns: np.ndarray, reduced: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return how much more of the spread the whole model explains, relative to what it leaves."""
    left = [
        np.sum((columns - design @ np.linalg.lstsq(design, columns, rcond=None)[0]) ** 2, axis=0)
        for design in (reduced, whole)
    ]
    return np.asarray((left[0] - left[1]) / np.maximum(left[1], 1e-30 + 1e-12 * left[0]))


def _design(factors: Sequence[Sequence[str]], count: int) -> np.ndarray:
    columns = [np.ones(count)]
    for factor in factors:
        columns += [np.array([level == name for level in factor], float) for name in sorted(set(factor))[1:]]
    return np.stack(columns, axis=1)


def _in_order(values: Sequence[Any], levels: Sequence[str]) -> list[str]:
    """Return the levels in the order of their values where these are numbers, else as they first come."""
    if not all(_is_number(value) for value in values):
        return list(levels)
    return [level for _, level in sorted(zip(values, levels, strict=True))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cells(sweep: Sweep, found: Sequence[Effect]) -> list[tuple[str, ...]]:
    """Return the lines of the table of effects."""
    names = short_names(sweep.keys)
    return [
        (
            names[one.key],
            one.best,
            f"{one.means[one.best]:.4f}",
            one.worst,
            f"{one.means[one.worst]:.4f}",
            f"{one.difference:.4f}",
            "" if one.p is None else f"{one.p:.2g}",
            one.verdict,
        )
        for one in found
    ]
