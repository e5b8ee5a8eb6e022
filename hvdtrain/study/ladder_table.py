"""What the ladder's trainings say together: means with their errors, and which steps are more than noise. Pure."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvdtrain.study.rungs import RUNGS, Rung

SIGNIFICANT = 0.05
TEST_EXAMPLES = 10_000
HEAD = ("model", "parameters", "published", "here", "error", "n", "difference", "minutes")
STEP_HEAD = ("step", "published", "here", "error", "p", "")
FEW_HEAD = ("model", "examples per class", "accuracy", "error", "n")


@dataclass(frozen=True)
class Outcome:
    """One training that has ended.

    Args:
        rung: Name of the model.
        seed: Its seed.
        accuracy: On the test set, per cent, after the last epoch.
        seconds: Of training, evaluations included.
        parameters: Of the model.
        examples_per_class: Trained on; None: all.
    """

    rung: str
    seed: int
    accuracy: float
    seconds: float
    parameters: int
    examples_per_class: int | None = None


@dataclass(frozen=True)
class Score:
    """A model's accuracy over seeds, per cent.

    Args:
        rung: The model.
        accuracies: One per seed.
        minutes: Mean duration of a training.
        parameters: Of the model.
        examples_per_class: Trained on; None: all.
    """

    rung: Rung
    accuracies: tuple[float, ...]
    minutes: float
    parameters: int
    examples_per_class: int | None = None

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return statistics.fmean(self.accuracies)

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None for one seed."""
        n = len(self.accuracies)
        return statistics.stdev(self.accuracies) / math.sqrt(n) if n > 1 else None


@dataclass(frozen=True)
class Step:
    """From one model to the next one.

    Args:
        below: The model before.
        above: The model after.
        p: Of Welch's t-test, two-sided: how often chance alone makes so large a difference; None with one seed.
    """

    below: Score
    above: Score
    p: float | None

    @property
    def gain(self) -> float:
        """Points of accuracy."""
        return self.above.mean - self.below.mean

    @property
    def error(self) -> float | None:
        """Standard error of the gain."""
        if self.below.error is None or self.above.error is None:
            return None
        return math.hypot(self.below.error, self.above.error)

    @property
    def verdict(self) -> str:
        """What the step is, in words."""
        if self.p is None:
            return "one seed: cannot be told from noise"
        if self.p >= SIGNIFICANT:
            return "noise"
        return "better" if self.gain > 0 else "worse"


def scores(outcomes: Sequence[Outcome], *, is_whole: bool = True) -> list[Score]:
    """Return the score of each model that was trained, in the ladder's order.

    Args:
        outcomes: Trainings.
        is_whole: Those on all examples; else those on fewer, by their number.
    """
    sizes = sorted({one.examples_per_class for one in outcomes if one.examples_per_class is not None})
    found = []
    for rung in RUNGS:
        for size in [None] if is_whole else sizes:
            mine = [one for one in outcomes if (one.rung, one.examples_per_class) == (rung.name, size)]
            if mine:
                mine.sort(key=lambda one: one.seed)
                minutes = statistics.fmean(one.seconds for one in mine) / 60
                accuracies = tuple(one.accuracy for one in mine)
                found.append(Score(rung, accuracies, minutes, mine[0].parameters, size))
    return found


def steps(found: Sequence[Score]) -> list[Step]:
    """Return the step from each model to the next one that was trained."""
    return [Step(below, above, _p(below, above)) for below, above in itertools.pairwise(found)]


def _p(below: Score, above: Score) -> float | None:
    if min(len(below.accuracies), len(above.accuracies)) < 2:
        return None
    if statistics.stdev(below.accuracies) == statistics.stdev(above.accuracies) == 0:
        return 1.0 if below.mean == above.mean else 0.0
    from scipy.stats import ttest_ind

    return float(ttest_ind(below.accuracies, above.accuracies, equal_var=False).pvalue)


def published_error(accuracy: float) -> float:
    """Return the standard error of one published accuracy, per cent, from the size of the test set alone.

    >>> round(published_error(99.19), 3)
    0.09
    """
    share = accuracy / 100
    return 100 * math.sqrt(share * (1 - share) / TEST_EXAMPLES)


def score_cells(found: Sequence[Score], *, is_mnist: bool) -> list[tuple[str, ...]]:
    """Return the lines of the table beside what was published; on other data there is nothing to compare with."""
    return [
        (
            one.rung.title,
            f"{one.parameters:,}",
            f"{one.rung.published:.2f}" if is_mnist else "",
            f"{one.mean:.2f}",
            _plus_minus(one.error),
            str(len(one.accuracies)),
            f"{one.mean - one.rung.published:+.2f}" if is_mnist else "",
            f"{one.minutes:.1f}",
        )
        for one in found
    ]


def step_cells(found: Sequence[Step], *, is_mnist: bool) -> list[tuple[str, ...]]:
    """Return the lines of the table of steps."""
    return [
        (
            f"{step.below.rung.title} -> {step.above.rung.title}",
            published_step(step) if is_mnist else "",
            f"{step.gain:+.2f}",
            _plus_minus(step.error),
            "" if step.p is None else f"{step.p:.2g}",
            step.verdict,
        )
        for step in found
    ]


def published_step(step: Step) -> str:
    """Return the published step, which is one seed, beside twice its error from the size of the test set."""
    gain = step.above.rung.published - step.below.rung.published
    error = math.hypot(published_error(step.above.rung.published), published_error(step.below.rung.published))
    return f"{gain:+.2f} ({'noise' if abs(gain) < 2 * error else 'more than noise'})"


def few_cells(found: Sequence[Score]) -> list[tuple[str, ...]]:
    """Return the lines of the learning curve."""
    return [
        (
            one.rung.title,
            f"{one.examples_per_class:,}",
            f"{one.mean:.2f}",
            _plus_minus(one.error),
            str(len(one.accuracies)),
        )
        for one in found
    ]


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """Return every training as a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", "seed", "examples_per_class", "accuracy", "seconds", "parameters"))
    for one in outcomes:
        few = "" if one.examples_per_class is None else one.examples_per_class
        writer.writerow((one.rung, one.seed, few, f"{one.accuracy:.4f}", f"{one.seconds:.1f}", one.parameters))
    return text.getvalue()


def outcome_of(climb: Mapping[str, object], summary: Mapping[str, object]) -> Outcome:
    """Return what a run's `summary.json` says of a climb."""
    metrics = summary["metrics"]
    assert isinstance(metrics, Mapping)
    return Outcome(
        rung=str(climb["rung"]),
        seed=int(str(climb["seed"])),
        accuracy=100 * float(metrics["val_accuracy"]),
        seconds=float(str(summary["seconds"])),
        parameters=int(str(summary["parameters"])),
        examples_per_class=None if climb["examples_per_class"] is None else int(str(climb["examples_per_class"])),
    )


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f"+-{error:.2f}"
