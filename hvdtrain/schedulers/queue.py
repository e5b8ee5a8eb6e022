"""Talking to Slurm: submit, ask, signal, requeue. The only module that calls its programs.

Everything here works without an accounting database (sacct).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.errors import EnvironmentNotFitError, NotFoundError
from hvdtrain.launch.shell import PASSED_NAMES

TIMEOUT_S = 60.0
# What of the user's environment reaches the job beside the names that ranks see: Slurm's own, and this Python.
OWN_NAMES = re.compile(r"(SLURM|SBATCH)_\w+$|HVDTRAIN_PYTHON$")
FIELDS = ("%i", "%T", "%r", "%M", "%L", "%N", "%F", "%K")


@dataclass(frozen=True)
class QueueEntry:
    """One job as squeue shows it.

    Args:
        job_id: `1234`, or `1234_5` for a task of an array.
        state: In Slurm's words: PENDING, RUNNING, COMPLETED ...
        reason: Why it waits or how it ended; `None` where there is nothing to say.
        elapsed: Time used so far.
        left: Time left of its limit.
        nodes: Where it runs.
    """

    job_id: str
    state: str
    reason: str
    elapsed: str
    left: str
    nodes: str

    @property
    def is_active(self) -> bool:
        """Whether it waits, runs, or is about to end."""
        return self.state in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED")


def submit(
    script: Path,
    arguments: Sequence[str],
    options: Sequence[str],
    environ: Mapping[str, str],
    *,
    pass_names: Sequence[str],
) -> str:
    """Hand a script to sbatch and return the job's id.

    Args:
        script: The batch script.
        arguments: Of the script.
        options: Of sbatch, beside those in the script.
        environ: The user's environment; the job gets what ranks may see of it, and no secret.
        pass_names: Further names it gets.

    Raises:
        EnvironmentNotFitError: If there is no Slurm here, or it refuses the job.
    """
    command = [_program("sbatch"), "--parsable", *options, str(script), *arguments]
    kept = {*PASSED_NAMES, *pass_names}
    passed = {name: value for name, value in environ.items() if name in kept or OWN_NAMES.match(name)}
    passed.pop("SLURM_JWT", None)
    result = _run(command, environ=passed)
    if result.returncode:
        raise EnvironmentNotFitError(f"Slurm refuses the job: {_words(result)}")
    return result.stdout.strip().partition(";")[0]


def queue() -> dict[str, QueueEntry]:
    """Return the user's jobs by id, those that ended lately too. One query.

    Raises:
        EnvironmentNotFitError: If Slurm cannot be asked.
    """
    result = _run([_program("squeue"), "--me", "--noheader", "--array", "--states=all", f"--format={'|'.join(FIELDS)}"])
    if result.returncode:
        raise EnvironmentNotFitError(f"Slurm cannot be asked about jobs: {_words(result)}")
    entries = [QueueEntry(*line.split("|")[:6]) for line in result.stdout.splitlines() if line.count("|") >= 7]
    return {entry.job_id: entry for entry in entries}


def details(job_id: str) -> dict[str, str]:
    """Return all that Slurm still knows about a job; empty if it has forgotten it.

    Raises:
        EnvironmentNotFitError: If there is no Slurm here.
    """
    result = _run([_program("scontrol"), "--oneliner", "show", "job", job_id])
    if result.returncode:
        return {}
    pairs = (word.partition("=") for word in result.stdout.splitlines()[-1].split())
    return {key: value for key, sign, value in pairs if sign}


def cancel(job_id: str) -> None:
    """Cancel a job at once.

    Raises:
        EnvironmentNotFitError: If Slurm refuses.
    """
    _must(_run([_program("scancel"), job_id]))


def requeue(job_id: str) -> None:
    """Queue a job again.

    Raises:
        EnvironmentNotFitError: If Slurm refuses.
    """
    _must(_run([_program("scontrol"), "requeue", job_id]))


def ask(program: str, *words: str) -> str:
    """Return what one of Slurm's programs prints, errors included.

    Raises:
        EnvironmentNotFitError: If it is not there or fails.
    """
    result = _run([_program(program), *words])
    _must(result)
    return result.stdout + result.stderr


def _must(result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode:
        raise EnvironmentNotFitError(f"Slurm refuses: {_words(result)}")


def _words(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    return " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in lines) or "it does not say why"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise EnvironmentNotFitError(
            f"{name} is not on PATH, so there is no Slurm here: log in to a machine of the cluster (or try it with "
            "`make cluster-up`)"
        )
    return found


def _run(command: Sequence[str], *, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=dict(os.environ if environ is None else environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentNotFitError(f"{Path(command[0]).name} does not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotFoundError(f"{command[0]}: {error.strerror}") from error
