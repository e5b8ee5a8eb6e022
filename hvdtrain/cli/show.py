"""How things look in a terminal. Data go to standard output, talk to standard error."""

from __future__ import annotations

from pathlib import Path

import click

from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir


def talk(text: str) -> None:
    """Say something to people."""
    click.echo(text, err=True)


def ledger_text(plan: Plan) -> str:
    """Return the ledger as aligned lines: name, value, rule."""
    names = max(len(entry.name) for entry in plan.ledger)
    values = max(len(entry.value) for entry in plan.ledger)
    lines = [f"  {entry.name:<{names}}  {entry.value:>{values}}  {entry.rule}" for entry in plan.ledger]
    return "\n".join([f"{plan.name}: the plan", *lines, *(f"  warning: {text}" for text in plan.warnings)])


def nice_path(path: Path) -> str:
    """Return a path relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def run_title(run: RunDir) -> str:
    """Return a run's directory as people type it."""
    return nice_path(run.path)
