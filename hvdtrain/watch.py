"""Where runs and their batch jobs are: one row per run, with one query to the scheduler for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.cli.show import name_of
from hvdtrain.errors import ConfigError, EnvironmentNotFitError, ExitCode
from hvdtrain.in_use import is_used, refuse_used
from hvdtrain.metrics import last_epoch_metrics
from hvdtrain.rundir import RunDir, read_json
from hvdtrain.schedulers import SCHEDULERS, QueueEntry

POLL_S = 0.5
STALE_S = 60.0  # progress older than this is not shown as the present


@dataclass(frozen=True)
class Status:
    """Where one run is.

    Args:
        id: Its short id.
        name: Its configuration's.
        job_id: Of its batch job, or None.
        state: `pending`, `running`, `stopped`, `finished`, `failed` ...; Slurm's word while the job is in the queue.
        reason: Why it waits, in Slurm's word.
        epoch: The one that is trained, from 1.
        epochs: Of the run.
        step: Steps done.
        total_steps: Of the run.
        examples_per_s: All ranks together, in the epoch so far.
        seconds_left: Until training ends, at this speed, without evaluations.
        metrics: Of the newest epoch that has ended.
        path: The run directory.
    """

    id: str
    name: str
    job_id: str | None
    state: str
    reason: str
    epoch: int
    epochs: int
    step: int
    total_steps: int
    examples_per_s: float | None
    seconds_left: float | None
    metrics: dict[str, Any]
    path: str

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return dataclasses.asdict(self)


def statuses(runs: Sequence[RunDir]) -> list[Status]:
    """Return where runs are. Each scheduler is asked once, and only if one of them has a job.

    Where Slurm cannot be asked, the run directories speak for themselves.
    """
    jobs = {run.path: run.job_id() for run in runs}
    entries: dict[str, QueueEntry] = {}
    for scheduler in {run.scheduler() for run in runs if jobs[run.path]} & set(SCHEDULERS):
        with contextlib.suppress(EnvironmentNotFitError):
            entries |= SCHEDULERS[scheduler].queue()
    rows = []
    for run in runs:
        try:
            rows.append(status(run, jobs[run.path], entries.get(jobs[run.path] or "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            rows.append(unreadable(run, jobs[run.path]))
    return rows


def unreadable(run: RunDir, job_id: str | None) -> Status:
    """Return a row for a run whose files are damaged: one of them must not hide all others."""
    return Status(
        run.short_id, "?", job_id, "damaged", "plan.json or its records", 0, 0, 0, 0, None, None, {}, str(run.path)
    )


def status(run: RunDir, job_id: str | None, entry: QueueEntry | None) -> Status:
    """Return where one run is.

    Args:
        run: The run.
        job_id: Of its job.
        entry: What the queue says about that.
    """
    plan = json.loads(run.plan.read_text(encoding="utf-8"))
    at, last = read_json(run.progress), _last_epoch(run)
    step = max(at.get("step", 0), last.get("step", 0)) if not run.finished.exists() else plan["total_steps"]
    state = state_of(run, entry)
    is_now = state == "running" or (state == "unfinished" and _is_now(at))
    rate = (at.get("examples_per_s") or last.get("examples_per_s")) if is_now else None
    left = (plan["total_steps"] - step) * plan["global_batch_size"] / rate if rate else None
    return Status(
        id=run.short_id,
        name=plan["name"],
        job_id=job_id,
        state=state,
        reason=entry.reason if entry is not None and entry.is_active and entry.reason != "None" else "",
        epoch=min(plan["epochs"], step // plan["steps_per_epoch"] + 1)
        if step < plan["total_steps"]
        else plan["epochs"],
        epochs=plan["epochs"],
        step=step,
        total_steps=plan["total_steps"],
        examples_per_s=rate,
        seconds_left=left,
        metrics=last_epoch_metrics(run.metrics),
        path=str(run.path.resolve()),
    )


def _is_now(progress: Mapping[str, Any]) -> bool:
    return time.time() - float(progress.get("time", 0)) < STALE_S


def state_of(run: RunDir, entry: QueueEntry | None) -> str:
    """Return a run's state in one word: the queue's while the job is there, else the run directory's."""
    if run.finished.exists():
        return "finished"
    if entry is not None and entry.is_active:
        return entry.state.lower()
    if run.exit_code() == ExitCode.STOPPED:
        return "stopped"
    own = "running" if is_used(run) else run.state()
    return entry.state.lower() if own == "unfinished" and entry is not None and entry.state != "COMPLETED" else own


def _last_epoch(run: RunDir) -> dict[str, Any]:
    from hvdtrain.metrics import read_records

    epochs = [record for record in read_records(run.metrics) if record.get("kind") == "epoch"]
    return epochs[-1] if epochs else {}


def refuse_active(run: RunDir) -> None:
    """Raise if something is still training in a run directory, or a job is about to.

    Raises:
        ConfigError: With what to do; also where the scheduler cannot be asked.
    """
    refuse_used(run)
    job_id = run.job_id()
    if job_id is None:
        return
    try:
        entry = SCHEDULERS[run.scheduler()].queue().get(job_id)
    except EnvironmentNotFitError as error:
        raise ConfigError(
            f"--resume {run.short_id}: it cannot be asked whether job {job_id} of this run has ended ({error}). "
            f"If it has, remove {run.job} and {run.lock}"
        ) from error
    if entry is not None and entry.is_active:
        raise ConfigError(
            f"--resume {run.short_id}: job {job_id} of this run is {entry.state}; two may not train in one run "
            f"directory: hvdtrain cancel {name_of(run)}, or wait for it"
        )


def active_runs(runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs whose jobs are in the queue, with one question to each scheduler.

    Raises:
        EnvironmentNotFitError: If a scheduler cannot be asked.
    """
    entries: dict[str, QueueEntry] = {}
    for scheduler in {run.scheduler() for run in runs if run.job_id()}:
        entries |= SCHEDULERS[scheduler].queue()
    return [run for run in runs if (entry := entries.get(run.job_id() or "")) is not None and entry.is_active]


def newest_log(run: RunDir, rank: int | None = None) -> Path | None:
    """Return the log to show: a rank's, or the batch job's, or rank 0's."""
    if rank is not None:
        return run.log(rank) if run.log(rank).exists() else None
    jobs = run.job_logs()
    return jobs[-1] if jobs else newest_log(run, 0)


def log_to_follow(run: RunDir, rank: int | None) -> Path | None:
    """Return the log that is being written, or will be: that of the job submitted last."""
    job_id = run.job_id()
    if rank is not None or job_id is None or run.scheduler() != "slurm":
        return newest_log(run, rank)
    own = run.logs / f"slurm-{job_id.partition('_')[0]}.out"
    return own if own.exists() else None


def follow(run: RunDir, rank: int | None) -> Iterator[str]:
    """Yield what a log holds and what is added, until the run has ended; a log that is not there yet is awaited."""
    log, place = None, 0
    while True:
        has_ended = is_over(run)
        newest = log_to_follow(run, rank) or (newest_log(run, rank) if has_ended else None)
        if newest != log:
            log, place = newest, 0
        if log is not None:
            with open(log, encoding="utf-8", errors="replace") as file:
                file.seek(place)
                text = file.read()
                place = file.tell()
            if text:
                yield text
        if has_ended:
            return
        time.sleep(POLL_S)


def is_over(run: RunDir) -> bool:
    """Tell whether nothing more will be written: no job of the run is in the queue."""
    job_id = run.job_id()
    if job_id is None:
        is_training = is_used(run)
        if is_training:
            return False
        has_ended = run.finished.exists() or run.exit_code() is not None or run.state() == "failed"
        return has_ended or (is_training is False and not _is_now(read_json(run.progress)))
    entry = _ask_seldom(run.scheduler(), job_id)
    return entry is None or not entry.is_active


_asked: dict[str, tuple[float, QueueEntry | None]] = {}
ASK_S = 5.0


def _ask_seldom(scheduler: str, job_id: str) -> QueueEntry | None:
    """Return what the queue says about a job, asked every few seconds at most: schedulers serve many people."""
    when, entry = _asked.get(job_id, (0.0, None))
    if time.monotonic() - when > ASK_S or job_id not in _asked:
        with contextlib.suppress(EnvironmentNotFitError):  # what it said last stands
            entry = SCHEDULERS[scheduler].queue().get(job_id)
        _asked[job_id] = (time.monotonic(), entry)
    return entry
