"""What a sweep's trials have reached: who leads, who goes on, and the table of it. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hvdtrain.study.sweep_space import Rung, Trial, best, short_names, value_text

FINISHED, FAILED, DROPPED, WAITING, STOPPED, RUNNING = "finished", "failed", "dropped", "waiting", "stopped", "running"


@dataclass(frozen=True)
class Sweep:
    """What was asked.

    Args:
        name: The sweep's.
        base_name: That of the configuration behind it.
        method: `grid`, `random` or `halving`.
        metric: What is compared.
        is_max: Whether a larger value is better.
        trials: All of them.
        stages: Of successive halving; empty else.
        epochs: Of a whole training.
        num_ranks: Of each trial.
        width: Trials at a time.
        num_validation: Examples held out for the comparison; 0: trials are compared on the test data.
        site: Whose scheduler runs the trials; None: this machine.
        notes: What people should know about the trials, in sentences.
        ranges: Parameter that was drawn from a range -> whether by its logarithm.
    """

    name: str
    base_name: str
    method: str
    metric: str
    is_max: bool
    trials: tuple[Trial, ...]
    stages: tuple[Rung, ...]
    epochs: int
    num_ranks: int
    width: int
    num_validation: int
    site: str | None = None
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, bool] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The parameters."""
        return list(self.trials[0].values) if self.trials else []


@dataclass(frozen=True)
class Outcome:
    """Where one trial is.

    Args:
        trial: Which.
        state: One of the words above.
        scores: Epoch -> the metric at its end.
        seconds: Of training and evaluating these epochs, without start-up.
        reason: Why it failed.
        is_final: Whether a failed trial would fail again, such as one that diverged.
    """

    trial: Trial
    state: str
    scores: Mapping[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    is_final: bool = False

    @property
    def epochs(self) -> int:
        """Epochs that have ended."""
        return max(self.scores, default=0)

    @property
    def score(self) -> float | None:
        """The metric of the last epoch."""
        return self.scores[self.epochs] if self.scores else None


@dataclass(frozen=True)
class Task:
    """A trial that is to train, up to an epoch; None: to its end."""

    trial: Trial
    stop_after: int | None = None


def to_do(sweep: Sweep, outcomes: Sequence[Outcome], *, retries: bool) -> list[Task]:
    """Return what must train now; under successive halving what the present stage is missing.

    Args:
        sweep: What was asked.
        outcomes: One for each trial.
        retries: Whether trials that failed are tried again, unless they would fail in the same way.
    """
    if not sweep.stages:
        return [Task(one.trial) for one in outcomes if _is_open(one, retries)]
    there = list(outcomes)
    for stage, after in zip(sweep.stages, (*sweep.stages[1:], None), strict=True):
        is_last = after is None
        is_past = any(one.epochs > stage.epochs for one in there)  # a retry could change who has gone on
        missing = [one for one in there if stage.epochs not in one.scores and _is_open(one, retries and not is_past)]
        if is_last:
            missing = [one for one in there if one.state != FINISHED and _is_open(one, retries)]
        if missing or after is None:
            return [Task(one.trial, None if is_last else stage.epochs) for one in missing]
        there = survivors(sweep, there, stage, after)
    return []


def survivors(sweep: Sweep, there: Sequence[Outcome], stage: Rung, after: Rung) -> list[Outcome]:
    """Return those that go on after a stage, best first."""
    scores = {one.trial.number: one.scores[stage.epochs] for one in there if stage.epochs in one.scores}
    by_number = {one.trial.number: one for one in there}
    return [by_number[number] for number in best(scores, after.num_trials, is_max=sweep.is_max)]


def _is_open(one: Outcome, retries: bool) -> bool:
    return one.state != FINISHED and (one.state != FAILED or (retries and not one.is_final))


def with_dropped(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes with those marked that successive halving has left behind."""
    there, gone = list(outcomes), set[int]()
    for stage, after in zip(sweep.stages, sweep.stages[1:], strict=False):
        if any(stage.epochs not in one.scores and _is_open(one, retries=False) for one in there):
            break
        going = survivors(sweep, there, stage, after)
        gone |= {one.trial.number for one in there} - {one.trial.number for one in going}
        there = going
    return [
        Outcome(one.trial, DROPPED, one.scores, one.seconds)
        if one.trial.number in gone and one.state not in (FAILED, FINISHED)
        else one
        for one in outcomes
    ]


def ranked(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the trials, best first: those that ended, then those with more epochs before those with fewer, the rest.

    Values after different parts of a training do not compare.
    """
    return sorted(outcomes, key=lambda one: (*(-part for part in goodness(sweep, one)), one.trial.number))


def goodness(sweep: Sweep, one: Outcome) -> tuple[float, float, float]:
    """Return what a trial is ranked by, more is better."""
    if one.score is None or one.state == FAILED:
        return -1, 0, 0
    score = one.score if sweep.is_max else -one.score
    return (1, 0, score) if one.state == FINISHED else (0, one.epochs, score)


def winner(sweep: Sweep, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the best of the trials that have trained to their end."""
    finished = [one for one in outcomes if one.state == FINISHED and one.score is not None]
    return next(iter(ranked(sweep, finished)), None)


def work_left(sweep: Sweep, outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """Return (starts, epochs) that are still to come, those of later stages included."""
    there = sorted((one.epochs for one in outcomes if _is_open(one, retries=False)), reverse=True)
    starts = epochs = before = 0
    for stage in sweep.stages or (Rung(sweep.epochs, len(sweep.trials)),):
        missing = [stage.epochs - max(done, before) for done in there[: stage.num_trials]]
        starts += sum(count > 0 for count in missing)
        epochs += sum(count for count in missing if count > 0)
        before = stage.epochs
    return starts, epochs


# -- the table ----------------------------------------------------------------------------------


def head(sweep: Sweep) -> list[str]:
    """Return the columns' names."""
    names = short_names(sweep.keys)
    return ["", "trial", *(names[key] for key in sweep.keys), sweep.metric, "epochs", "seconds", "state"]


def cells(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return one line for each trial, best first."""
    lines = []
    for place, one in enumerate(ranked(sweep, outcomes), 1):
        has_place = one.score is not None and one.state != FAILED
        lines.append(
            [
                str(place) if has_place else "",
                str(one.trial.number),
                *(value_text(one.trial.values[key]) for key in sweep.keys),
                "" if one.score is None else f"{one.score:.4f}",
                str(one.epochs),
                f"{one.seconds:.1f}" if one.scores else "",
                one.state + (f": {one.reason}" if one.reason else ""),
            ]
        )
    return lines


def rows(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the table as plain data, best first."""
    return [
        {
            "trial": one.trial.number,
            "parameters": dict(one.trial.values),
            sweep.metric: one.score,
            "epochs": one.epochs,
            "seconds": round(one.seconds, 3),
            "state": one.state,
            "reason": one.reason,
        }
        for one in ranked(sweep, outcomes)
    ]


def to_csv(sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Return the table as CSV, with whole keys as names of columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("trial", *sweep.keys, sweep.metric, "epochs", "seconds", "state"))
    for one in ranked(sweep, outcomes):
        values = [value_text(one.trial.values[key]) for key in sweep.keys]
        score = "" if one.score is None else f"{one.score:.6g}"
        writer.writerow((one.trial.number, *values, score, one.epochs, f"{one.seconds:.2f}", one.state))
    return text.getvalue()
