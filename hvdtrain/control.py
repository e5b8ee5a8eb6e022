"""Acting on a run's batch job, and gathering what is known about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hvdtrain.cli.show import name_of
from hvdtrain.errors import EnvironmentNotFitError, NotFoundError
from hvdtrain.in_use import is_used
from hvdtrain.jobs import first_failure
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.schedulers import SCHEDULERS, QueueEntry
from hvdtrain.schedulers.batch import START
from hvdtrain.why import Evidence

TAIL_BYTES = 65_536


def cancel(runs: Sequence[RunDir], *, at_once: bool) -> Iterator[str]:
    """Stop the jobs of runs that are in the queue, and yield what was done with each in words.

    Those that have ended are passed over. A refusal keeps none of the others from being stopped; it is raised last.

    Args:
        runs: One run, or those of an array.
        at_once: Without waiting for a save; ranks that are told in time still make one.

    Raises:
        NotFoundError: If none of the runs has a job in the queue.
        EnvironmentNotFitError: If the scheduler refuses.
    """
    refusals = []
    for run, entry in _active_jobs(runs).items():
        try:
            yield _cancel(run, entry, at_once=at_once)
        except EnvironmentNotFitError as error:
            refusals.append(f"job {entry.job_id}: {error}")
    if refusals:
        raise EnvironmentNotFitError("; ".join(refusals))


def _cancel(run: RunDir, entry: QueueEntry, *, at_once: bool) -> str:
    if entry.state == "RUNNING" and not at_once:
        write_text(run.stop, f"cancel {entry.job_id}\n")
        return f"job {entry.job_id} was asked to stop: it saves its state and ends (--now: at once)"
    SCHEDULERS[run.scheduler()].cancel(entry.job_id)
    return f"job {entry.job_id} is cancelled"


def requeue(run: RunDir) -> str:
    """Queue a run's job again, and return what was done in words.

    Raises:
        NotFoundError: If the run has no job.
        EnvironmentNotFitError: If Slurm refuses, with what to do instead.
    """
    job_id = _job_of(run)
    if run.finished.exists():
        return f"{run.short_id} is finished; nothing is left to train"
    run.stop.unlink(missing_ok=True)
    try:
        SCHEDULERS[run.scheduler()].requeue(job_id)
    except EnvironmentNotFitError as error:
        raise EnvironmentNotFitError(
            f"{error}. A job that has ended some time ago cannot be queued again; submit a new one for the same run: "
            f"hvdtrain submit --resume {name_of(run)}"
        ) from error
    return f"job {job_id} is queued again; it resumes from the newest checkpoint"


def _job_of(run: RunDir) -> str:
    job_id = run.job_id()
    if job_id is None:
        raise NotFoundError(
            f"{run.short_id} has no batch job; it was started with hvdtrain run (Ctrl-C stops it there)"
        )
    return job_id


def _active_jobs(runs: Sequence[RunDir]) -> dict[RunDir, QueueEntry]:
    jobs = {run: _job_of(run) for run in runs}
    queues = {name: SCHEDULERS[name].queue() for name in {run.scheduler() for run in runs}}
    found = {run: entry for run, job_id in jobs.items() if (entry := queues[run.scheduler()].get(job_id)) is not None}
    active = {run: entry for run, entry in found.items() if entry.is_active}
    if not active:
        shown = ", ".join(f"job {job_id} of {run.short_id}" for run, job_id in list(jobs.items())[:5])
        raise NotFoundError(f"not in the queue (any more): {shown}; hvdtrain why {name_of(runs[0])}")
    return active


def evidence_of(run: RunDir) -> Evidence:
    """Return what is known about a run; without Slurm, what its directory says."""
    job_id, job = run.job_id(), {}
    if job_id is not None:
        try:
            job = SCHEDULERS[run.scheduler()].details(job_id)
        except EnvironmentNotFitError:
            job = {}
    failure = first_failure(run) or {}
    code = run.exit_code()
    if code is None and failure:
        code = failure["exit_code"]
    if code is None and ":" in job.get("ExitCode", ""):
        code = exit_code(job["ExitCode"])
    stop = run.stop.read_text(encoding="utf-8").strip() if run.stop.is_file() else ""
    logs = [*run.job_logs()[-1:], run.launcher_log, *sorted(run.logs.glob("rank_*.log"))[:8]]
    return Evidence(
        is_finished=run.finished.exists(),
        exit_code=code or None,
        stop=stop,
        failure=failure,
        is_local=job_id is None,
        is_used=is_used(run),
        job=job,
        log="\n".join(of_last_start(tail(log)) for log in logs if log.is_file()),
    )


def of_last_start(text: str) -> str:
    """Return the part of a job's log that its last start wrote: logs are appended to when a job is queued again.

    >>> of_last_start("*** STEP 1.0 CANCELLED DUE TO PREEMPTION ***\\nstopped\\n" + START + " 2\\nbang")
    ' 2\\nbang'
    """
    return text.rpartition(START)[2]


def exit_code(text: str) -> int:
    """Return Slurm's `code:signal` as a shell would.

    >>> exit_code("3:0"), exit_code("0:9")
    (3, 137)
    """
    code, _, number = text.partition(":")
    return 128 + int(number) if int(number or 0) else int(code)


def tail(path: Path) -> str:
    """Return the end of a file."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")
