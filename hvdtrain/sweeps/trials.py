"""From a sweep file to its trials, every one a valid configuration with its plan before the first one starts."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hvdtrain.cli.options import Changes
from hvdtrain.config import Config
from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError, Problem
from hvdtrain.facts import Facts
from hvdtrain.overrides import place_of
from hvdtrain.prepare import Prepared, prepare
from hvdtrain.sites import Site
from hvdtrain.study.sweep_space import Rung, Trial, Values, draws, grid, rungs, title, total_epochs
from hvdtrain.sweeps.config import SweepFile

MAX_TRIALS = 1000
DEFAULT_SPLIT = 0.1


@dataclass(frozen=True)
class Trials:
    """The trials of a sweep.

    Args:
        base: The configuration that they change.
        changes: What changes all of them.
        prepared: Each trial with its plan and script.
        notes: What people should know about them.
    """

    base: Config
    changes: Changes
    prepared: tuple[tuple[Trial, Prepared], ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> Prepared:
        """The first one."""
        return self.prepared[0][1]


def make_trials(sweep: SweepFile, changes: Changes, facts: Facts, site: Site | None = None) -> Trials:
    """Return all trials.

    Args:
        sweep: What was asked.
        changes: What the command line changes in the base.
        facts: The part of the machine that one trial has.
        site: The cluster, for batch jobs.

    Raises:
        ConfigError: With everything that is wrong with the base, or with trials.
    """
    if not sweep.base.is_file():
        raise ConfigError(sweep.document.problems([(("base",), f"there is no such file: {sweep.base}")]))
    base = load_config(sweep.base, changes.overrides)
    _check_base(sweep, base)
    changes, notes = _with_split(sweep, base, changes)
    wanted = None if sweep.is_grid else expected_trials(sweep)
    prepared: list[tuple[Trial, Prepared]] = []
    complaints = _Complaints(sweep)
    for values in _candidates(sweep):
        if wanted is not None and len(prepared) + (complaints.count if not sweep.skips else 0) >= wanted:
            break
        trial = Trial(len(prepared), values)
        try:
            prepared.append((trial, _prepared(sweep, trial, changes, facts, site)))
        except ConfigError as error:
            complaints.add(trial, error)
    found = complaints.problems(len(prepared) + complaints.count)
    if found and (not sweep.skips or not prepared):
        raise ConfigError(found)
    notes += [f"left out: {problem}" for problem in found]
    if wanted is not None and len(prepared) < wanted:
        notes.append(f"there are only {len(prepared)} different combinations, and {wanted} trials were asked for")
    return Trials(base, changes, tuple(prepared), tuple(notes))


def stages(sweep: SweepFile, num_trials: int, epochs: int) -> tuple[Rung, ...]:
    """Return the stages of successive halving; none for other methods."""
    if sweep.config.method != "halving":
        return ()
    settings = sweep.halving
    return rungs(num_trials, epochs, factor=settings.factor, min_epochs=settings.min_epochs)


def stages_text(found: Sequence[Rung], num_trials: int, epochs: int) -> str:
    """Return in words who trains for how long.

    >>> stages_text(rungs(9, 9, factor=3, min_epochs=1), 9, 9)
    '9 trials train for 1 epoch, the best 3 go on to 3, the best one to 9: 21 epochs; all trials to the end would be 81'
    """
    first, *others = found
    words = [f"{first.num_trials} trials train for {first.epochs} epoch{'s' if first.epochs > 1 else ''}"]
    words += [
        f"the best {'one' if stage.num_trials == 1 else stage.num_trials}"
        f"{(' goes on' if stage.num_trials == 1 else ' go on') * (place == 0)} to {stage.epochs}"
        for place, stage in enumerate(others)
    ]
    return f"{', '.join(words)}: {total_epochs(found)} epochs; all trials to the end would be {num_trials * epochs}"


def _check_base(sweep: SweepFile, base: Config) -> None:
    """Refuse a base that cannot be swept in this way.

    Raises:
        ConfigError: With every reason.
    """
    found: list[tuple[tuple[str, ...], str]] = []
    if sweep.config.method == "halving" and base.training.epochs is None:
        found.append((("method",), "'halving' counts in epochs: give training.epochs in the base, not training.steps"))
    for key in ("max_minutes", "stop_after_epochs"):
        if getattr(base.training, key) is not None:
            found.append((("base",), f"it has training.{key}, and all trials must train to their end; set it to null"))
    if base.measure is not None:
        found.append((("base",), "it measures speed (measure); a sweep trains"))
    metric = sweep.config.objective.metric
    known = [f"{part}{name}" for part in ("val_", "") for name in ("loss", *base.metrics)]
    near = difflib.get_close_matches(
        metric, known, n=1, cutoff=0.9
    )  # models of several outputs have names of their own
    if metric not in known and near:
        found.append((("objective", "metric"), f"the base has no {metric!r}; did you mean {near[0]!r}?"))
    elif sweep.config.objective.is_max is None:
        found.append((("objective",), f"nothing says whether more {metric!r} is better; say mode: max or mode: min"))
    if found:
        raise ConfigError(sweep.document.problems(found))


def _with_split(sweep: SweepFile, base: Config, changes: Changes) -> tuple[Changes, list[str]]:
    """Return the changes with a validation split where the base says nothing about it, and words about it."""
    if not sweep.config.objective.metric.startswith("val_"):
        return changes, []
    if "validation_split" not in base.data.model_fields_set:
        setting = f"data.validation_split={DEFAULT_SPLIT}"
        changes = Changes((*changes.overrides, setting), (*changes.options, "--set", setting))
        return changes, [
            f"{DEFAULT_SPLIT:.0%} of the training examples are held out to compare trials on ({setting}; choosing by "
            "the test set would overstate)"
        ]
    if base.data.validation_split == 0:
        return changes, [
            "data.validation_split is 0, so trials are compared on the test data: the best value overstates what the "
            "model can do"
        ]
    return changes, []


def expected_trials(sweep: SweepFile) -> int:
    """Return how many trials a sweep has, unless some are left out.

    Raises:
        ConfigError: If they are too many.
    """
    size = sweep.config.num_trials or 0
    if sweep.is_grid:
        size = math.prod(len(choice.values) for choice in sweep.space.values() if isinstance(choice, Values))
    if size > MAX_TRIALS:
        key = "parameters" if sweep.is_grid else "num_trials"
        message = f"{size:,} trials; at most {MAX_TRIALS:,}" + (": fewer values, or method: random" * sweep.is_grid)
        raise ConfigError(sweep.document.problems([((key,), message)]))
    return size


def _candidates(sweep: SweepFile) -> Iterator[dict[str, Any]]:
    if not sweep.is_grid:
        return islice(draws(sweep.space, sweep.config.seed), 2 * MAX_TRIALS)
    expected_trials(sweep)
    return grid(sweep.space)


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the `--set` text of each parameter."""
    return {key: f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()}


def _prepared(sweep: SweepFile, trial: Trial, changes: Changes, facts: Facts, site: Site | None) -> Prepared:
    settings = list(_settings(trial.values).values())
    options = (*changes.options, *(token for setting in settings for token in ("--set", setting)))
    return prepare(str(sweep.base), facts, overrides=(*changes.overrides, *settings), options=options, site=site)


class _Complaints:
    """What is wrong with trials, each thing once, at its line of the sweep file."""

    def __init__(self, sweep: SweepFile) -> None:
        self._sweep = sweep
        self._found: dict[Problem, list[Trial]] = {}
        self.count = 0

    def add(self, trial: Trial, error: ConfigError) -> None:
        """Take note of what is wrong with one trial."""
        self.count += 1
        places = {place_of(text): key for key, text in _settings(trial.values).items()}
        for problem in error.problems:
            swept = places.get(problem.path)
            if swept is not None:
                inner = "" if problem.key == swept else f"{problem.key}: "
                message = f"{inner}{problem.message}"
                problem = self._sweep.document.problems([(("parameters", swept), message)])[0]
            self._found.setdefault(problem, []).append(trial)

    def problems(self, num_trials: int) -> list[Problem]:
        """Return the problems, with how many combinations have them."""
        return [
            Problem(f"{problem.message}{self._where(trials, num_trials)}", problem.key, problem.path, problem.line)
            for problem, trials in self._found.items()
        ]

    def _where(self, trials: Sequence[Trial], num_trials: int) -> str:
        if len(trials) == num_trials:
            return ""
        first = title(trials[0]).partition(": ")[2]
        return f" (in {len(trials)} of {num_trials} combinations, the first: {first})"
