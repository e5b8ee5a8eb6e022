"""Running one configuration to measure it, here."""

from __future__ import annotations

import os
from pathlib import Path

from hvdtrain.bench.launch import SIGNALLED
from hvdtrain.cli.show import nice_path, talk
from hvdtrain.in_use import refuse_used
from hvdtrain.jobs import execute_script, first_failure
from hvdtrain.prepare import Prepared, new_run, new_run_name
from hvdtrain.rundir import RunDir
from hvdtrain.runner import rank_environment


def run_measurement(prepared: Prepared, root: Path, name: str, *, title: str) -> int:
    """Run a configuration whose `measure` is set, and return its exit code; a failure is said.

    Args:
        prepared: The configuration.
        root: Directory for the run; one of this name that did not get to its measurement makes room.
        name: Of the run's directory.
        title: What it is, for people.
    """
    run = _clean_run(prepared, root, name)
    code = execute_script(run, rank_environment(dict(os.environ)))
    if code and code not in SIGNALLED:
        talk(failure_words(run, title, code))
    return code


def failure_words(run: RunDir, title: str, code: int) -> str:
    """Return what became of one run of many that failed."""
    first = first_failure(run)
    why = f": {first['error']}: {first['message'].splitlines()[0]}" if first and first["message"] else ""
    return f"  {title} failed with exit code {code}{why}\n  logs: {nice_path(run.logs)}"


def _clean_run(prepared: Prepared, root: Path, name: str) -> RunDir:
    old = root / prepared.plan.name / name
    if old.exists():
        refuse_used(RunDir(old))
        old.rename(old.with_name(f"{old.name}.failed-{new_run_name()}"))
    return new_run(prepared, root, name=name)
