"""How things look in a terminal. Data go to standard output, talk to standard error."""

from __future__ import annotations

import datetime
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvdtrain.cli.options import STUDIES
from hvdtrain.plan import Plan
from hvdtrain.rundir import RUNS, RunDir

if TYPE_CHECKING:
    from hvdtrain.studydir import ReportDir
    from hvdtrain.watch import Status


def talk(text: str) -> None:
    """Say something to people."""
    click.echo(text, err=True)


def ledger_text(plan: Plan) -> str:
    """Return the ledger as aligned lines: name, value, rule."""
    names = max(len(entry.name) for entry in plan.ledger)
    values = max(len(entry.value) for entry in plan.ledger)
    lines = [f"  {entry.name:<{names}}  {entry.value:>{values}}  {entry.rule}" for entry in plan.ledger]
    return "\n".join([f"{plan.name}: the plan", *lines, *(f"  warning: {text}" for text in plan.warnings)])


def status_table(rows: Sequence[Status]) -> str:
    """Return runs as a table, newest first."""
    head = (
        f"{'id':<10} {'name':<20} {'job':>8}  {'state':<10} {'epoch':>9} {'step':>15} {'examples/s':>10} {'left':>8}  "
        "metrics"
    )
    return "\n".join([head, *map(_status_line, rows)])


def _status_line(row: Status) -> str:
    rate = f"{row.examples_per_s:,.0f}" if row.examples_per_s else ""
    state = row.state + (f" ({row.reason})" if row.reason else "")
    return (
        f"{row.id:<10} {row.name:<20} {row.job_id or '-':>8}  {state:<10} {f'{row.epoch}/{row.epochs}':>9} "
        f"{f'{row.step:,}/{row.total_steps:,}':>15} {rate:>10} {duration(row.seconds_left):>8}  "
        f"{metrics_text(row.metrics)}"
    ).rstrip()


def status_text(row: Status) -> str:
    """Return one run in a few lines."""
    state = row.state + (f": {row.reason}" if row.reason else "")
    lines = [
        f"{row.name}  {row.id}   {state}" + (f"   job {row.job_id}" if row.job_id else ""),
        f"  epoch {row.epoch} of {row.epochs}, step {row.step:,} of {row.total_steps:,}",
    ]
    if row.examples_per_s and row.seconds_left is not None:
        ends = datetime.datetime.now() + datetime.timedelta(seconds=row.seconds_left)
        lines.append(
            f"  {row.examples_per_s:,.0f} examples/s; training ends in {duration(row.seconds_left)}, {ends:%a %H:%M}"
        )
    if row.metrics:
        lines.append(f"  last epoch: {metrics_text(row.metrics)}")
    return "\n".join([*lines, f"  {nice_path(Path(row.path))}"])


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return metrics as `name value` pairs."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)


def duration(seconds: float | None) -> str:
    """Return a time span as people say it.

    >>> duration(75), duration(7300), duration(200_000), duration(None)
    ('1m 15s', '2h 1m', '2d 7h', '')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"


def nice_path(path: Path) -> str:
    """Return a path relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def name_of(directory: RunDir | ReportDir) -> str:
    """Return what names a run or a study in a command that is typed here.

    That is its short id where the command finds it without --runs or --studies, else its path.
    """
    root = Path(RUNS if isinstance(directory, RunDir) else STUDIES)
    is_found = directory.path.resolve().parent.parent == root.resolve()
    return directory.short_id if is_found else shlex.quote(nice_path(directory.path))


def program() -> str:
    """Return how this command can be typed again: `hvdtrain` if it is on PATH, else where it or its Python lies."""
    if shutil.which("hvdtrain"):
        return "hvdtrain"
    if Path(sys.argv[0]).name == "__main__.py":
        # Not resolved: what a virtual environment's python is a link to knows nothing of its packages.
        return f"{shlex.quote(sys.executable)} -m hvdtrain"
    return shlex.quote(nice_path(Path(sys.argv[0])))


def go_on(run: RunDir) -> str:
    """Return the command that continues a run, here or as a batch job."""
    return f"{program()} {'submit' if run.job_id() else 'run'} --resume {name_of(run)}"


def command_line() -> str:
    """Return the command as it can be typed again."""
    return shlex.join(["hvdtrain", *sys.argv[1:]])
