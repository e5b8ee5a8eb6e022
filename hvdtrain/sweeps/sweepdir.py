"""Every path under one sweep's directory, how sweeps are found again, and where their trials are."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.cli.show import name_of
from hvdtrain.errors import ExitCode
from hvdtrain.in_use import held, is_held
from hvdtrain.jobs import first_failure
from hvdtrain.metrics import EPOCH_FIELDS, read_records
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.study.sweep_space import Rung, Trial
from hvdtrain.study.sweep_table import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Outcome, Sweep, with_dropped
from hvdtrain.studydir import ReportDir, given_as_path, named, read_asked

FILE = "sweep.json"


@dataclass(frozen=True)
class SweepDir(ReportDir):
    """A sweep's directory, `studies/<name>/<timestamp>-<short id>/`."""

    @property
    def file(self) -> Path:
        """What was asked, of which machine."""
        return self.path / FILE

    @property
    def lock(self) -> Path:
        """Locked by the process that trains the sweep."""
        return self.path / "LOCK"

    @property
    def runs(self) -> Path:
        """The trials' run directories."""
        return self.path / "runs"

    def run(self, sweep: Sweep, trial: Trial) -> RunDir:
        """Return a trial's run directory."""
        return RunDir(self.runs / sweep.base_name / trial.name)

    def evaluation(self, sweep: Sweep, trial: Trial) -> Path:
        """Return where the winner's metrics on the test data are."""
        return self.run(sweep, trial).path / "evaluation.json"

    def sweep(self) -> Sweep:
        """Return what was asked.

        Raises:
            CorruptError: If `sweep.json` is damaged.
        """
        return read_asked(self.file, lambda found: _sweep(found["sweep"]))


def _sweep(data: dict[str, Any]) -> Sweep:
    return Sweep(
        **{
            **data,
            "trials": tuple(Trial(**trial) for trial in data["trials"]),
            "stages": tuple(Rung(**stage) for stage in data["stages"]),
            "notes": tuple(data["notes"]),
        }
    )


def write_sweep(directory: SweepDir, sweep: Sweep, **facts: Any) -> None:
    """Write what was asked; this makes the directory a sweep."""
    text = json.dumps({"sweep": dataclasses.asdict(sweep), **facts}, indent=1)
    write_text(directory.file, text + "\n")


def alone(directory: SweepDir) -> contextlib.AbstractContextManager[object]:
    """Train a sweep alone: two processes would start the same trials.

    Raises:
        ConfigError: If another process is at it.
    """
    return held(
        directory.lock,
        f"sweep {directory.short_id} is being trained by another process; see how far it is: hvdtrain sweep "
        f"--collect {name_of(directory)}",
    )


def running_trials(directory: SweepDir, sweep: Sweep) -> frozenset[int]:
    """Return the numbers of the trials that run on this machine: those that were started and have not ended."""
    if not is_held(directory.lock):
        return frozenset()
    runs = {trial.number: directory.run(sweep, trial) for trial in sweep.trials}
    return frozenset(
        number
        for number, run in runs.items()
        if run.launcher_log.exists() and run.exit_code() is None and run.state() == "unfinished"
    )


def find_sweep(name: str, root: Path) -> SweepDir:
    """Return the sweep that a path, a directory's name or a short id names; empty text names the newest.

    Raises:
        NotFoundError: If there is none.
    """
    given = given_as_path(name, FILE)
    if given is not None:
        return SweepDir(given)
    found = [SweepDir(path.parent.resolve()) for path in root.glob(f"*/*/{FILE}")]
    return named("sweep", name, sorted(found, key=lambda one: one.path.name, reverse=True), root)


# -- where trials are ---------------------------------------------------------------------------


def outcomes(directory: SweepDir, sweep: Sweep, active: frozenset[int] = frozenset()) -> list[Outcome]:
    """Return where each trial is.

    Args:
        directory: The sweep's.
        sweep: What was asked.
        active: Numbers of the trials that run, or wait in a queue.
    """
    found = [
        outcome(directory.run(sweep, trial), trial, sweep.metric, is_active=trial.number in active)
        for trial in sweep.trials
    ]
    return with_dropped(sweep, found)


def outcome(run: RunDir, trial: Trial, metric: str, *, is_active: bool = False) -> Outcome:
    """Return where one trial is, from its run directory."""
    epochs = {record["epoch"]: record for record in read_records(run.metrics) if record["kind"] == "epoch"}
    scores = {epoch: record[metric] for epoch, record in epochs.items() if record.get(metric) is not None}
    seconds = sum(record["train_s"] + record["evaluation_s"] for record in epochs.values())
    last = max(epochs, default=0)
    if not is_active and epochs and epochs[last].get(metric, 0) is None:  # as records write what is not finite
        return Outcome(trial, FAILED, scores, seconds, f"{metric} is not finite after epoch {last}", is_final=True)
    if run.finished.exists():
        return Outcome(trial, FINISHED, scores, seconds)
    if is_active:
        return Outcome(trial, RUNNING, scores, seconds)
    code, failure = run.exit_code(), first_failure(run)
    if failure is not None or code not in (None, int(ExitCode.OK), int(ExitCode.STOPPED)):
        return Outcome(trial, FAILED, scores, seconds, _reason(failure, code), code_of(failure, code) in FINAL)
    return Outcome(trial, STOPPED if epochs or code else WAITING, scores, seconds)


FINAL = (int(ExitCode.OUT_OF_SYNC),)  # what would end in the same way: values that are not finite


def code_of(failure: dict[str, Any] | None, code: int | None) -> int | None:
    """Return the exit code of a trial that failed: that of its first rank to fail, else its launcher's."""
    return int(failure["exit_code"]) if failure else code


def _reason(failure: dict[str, Any] | None, code: int | None) -> str:
    if failure is None:
        return f"exit code {code}"
    lines = str(failure.get("message", "")).strip().splitlines()
    return f"{failure['error']}: {lines[0]}" if lines else str(failure["error"])


def metric_names(run: RunDir) -> list[str]:
    """Return the values that a run's epochs have."""
    records = [record for record in read_records(run.metrics) if record["kind"] == "epoch"]
    return [name for name in records[-1] if name not in EPOCH_FIELDS] if records else []
