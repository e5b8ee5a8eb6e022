"""The trials of a sweep: every combination, or random draws, and who goes on under successive halving. Pure.

Successive halving: Jamieson and Talwalkar 2016 (arXiv:1502.07943); random against grid: Bergstra and Bengio 2012.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRIAL = "trial"
DIGITS = 4  # of a number that is drawn
SAY_LITTLE = ("name", "source", "args")  # ends of keys that need what stands before them
MAX_REPEATS = 300  # draws in a row that were there before: then there is nothing new


@dataclass(frozen=True)
class Values:
    """A parameter with a list of values.

    Args:
        values: Each once.
    """

    values: tuple[Any, ...]

    def draw(self, share: float) -> Any:
        """Return the value that lies at a share of the list, from 0 to less than 1."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """A parameter with a range of numbers.

    Args:
        low: Smallest.
        high: Largest.
        is_log: Whether 1 to 10 is as likely as 10 to 100.
        is_integer: Whether only whole numbers are drawn, both ends among them.
    """

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False

    def draw(self, share: float) -> float | int:
        """Return the number that lies at a share of the range, from 0 to less than 1.

        >>> Range(1, 100, is_log=True).draw(0.5), Range(1, 3, is_integer=True).draw(0.99)
        (10.0, 3)
        """
        high = self.high + 1 if self.is_integer else self.high
        span = high / self.low if self.is_log else high - self.low
        value = self.low * span**share if self.is_log else self.low + span * share
        if self.is_integer:
            return int(min(self.high, max(self.low, math.floor(value))))
        return min(float(self.high), max(float(self.low), self._rounded(value)))

    def _rounded(self, value: float) -> float:
        """Return a number with so few digits that it can be read and typed, but no coarser than the range deserves."""
        sizes = [self.high - self.low, *([value] if self.is_log else [])]
        return round(value, max(DIGITS - 1 - math.floor(math.log10(size)) for size in sizes))


Space = Mapping[str, Values | Range]


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Args:
        number: From 0.
        values: Key of the configuration -> value.
    """

    number: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As in paths; a job array finds its task's directory by it."""
        return f"{TRIAL}.{self.number}"


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination; the last parameter changes fastest.

    >>> [list(one.values()) for one in grid({"a": Values((1, 2)), "b": Values(("x", "y"))})]
    [[1, 'x'], [1, 'y'], [2, 'x'], [2, 'y']]
    """
    lists = [choice.values for choice in space.values() if isinstance(choice, Values)]
    yield from (dict(zip(space, combination, strict=True)) for combination in itertools.product(*lists))


def draws(space: Space, seed: int) -> Iterator[dict[str, Any]]:
    """Yield random combinations, each once, until nothing new comes; more of them begin with the same ones."""
    chance = random.Random(seed)
    seen: set[str] = set()
    repeats = 0
    while repeats < MAX_REPEATS:
        values = {key: choice.draw(chance.random()) for key, choice in space.items()}
        text = json.dumps(values, sort_keys=True)
        repeats = repeats + 1 if text in seen else 0
        if text not in seen:
            seen.add(text)
            yield values


# -- successive halving -------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """A stage of successive halving: so many trials have trained for so many epochs at its end."""

    epochs: int
    num_trials: int


def rungs(num_trials: int, epochs: int, *, factor: int, min_epochs: int) -> tuple[Rung, ...]:
    """Return the stages, each `factor` times as long as the one before, for the best one in `factor` trials.

    Args:
        num_trials: Trials that begin.
        epochs: Of a whole training, which the last stage ends with.
        factor: How many trials there are for one that goes on.
        min_epochs: Before anything is decided.

    >>> rungs(20, 27, factor=3, min_epochs=1)
    (Rung(epochs=3, num_trials=20), Rung(epochs=9, num_trials=6), Rung(epochs=27, num_trials=2))
    """
    lengths = [epochs]
    left = num_trials // factor
    while left >= 1 and min_epochs <= math.ceil(lengths[-1] / factor) < lengths[-1]:
        lengths.append(math.ceil(lengths[-1] / factor))
        left //= factor
    lengths.reverse()
    return tuple(Rung(length, num_trials // factor**stage) for stage, length in enumerate(lengths))


def total_epochs(stages: Sequence[Rung]) -> int:
    """Return the epochs of all trials together; those that go on keep what they have.

    >>> total_epochs(rungs(9, 9, factor=3, min_epochs=1))
    21
    """
    before = (0, *(stage.epochs for stage in stages))
    return sum(stage.num_trials * (stage.epochs - done) for stage, done in zip(stages, before, strict=False))


def best(scores: Mapping[int, float], count: int, *, is_max: bool) -> list[int]:
    """Return the numbers of the best trials, best first; of equals the earlier one.

    >>> best({0: 0.5, 1: 0.9, 2: 0.9}, 2, is_max=True)
    [1, 2]
    """
    return sorted(scores, key=lambda number: (-scores[number] if is_max else scores[number], number))[:count]


# -- in words -----------------------------------------------------------------------------------


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each key by as much of its end as tells it from the others.

    >>> short_names(["model.args.units", "optimizer.name"])
    {'model.args.units': 'units', 'optimizer.name': 'optimizer.name'}
    """
    found = {}
    for key in keys:
        parts = key.split(".")
        first = 2 if parts[-1] in SAY_LITTLE else 1
        ends = [".".join(parts[-count:]) for count in range(first, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        found[key] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), key)
    return found


def value_text(value: Any) -> str:
    """Return a value as people write it, on one line.

    >>> value_text(0.30000000000000004), value_text("adam"), value_text([64, 64]), value_text({"name": "sgd", "a": 1})
    ('0.3', 'adam', '64, 64', 'sgd a=1')
    """
    if isinstance(value, dict):
        words = (value_text(item) if key == "name" else f"{key}={value_text(item)}" for key, item in value.items())
        return " ".join(words)
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def title(trial: Trial) -> str:
    """Return a trial in words.

    >>> title(Trial(3, {"model.args.units": 64, "optimizer.name": "adam"}))
    'trial 3: units 64, optimizer.name adam'
    """
    names = short_names(list(trial.values))
    shown = ", ".join(f"{names[key]} {value_text(value)}" for key, value in trial.values.items())
    return f"{TRIAL} {trial.number}: {shown}"
