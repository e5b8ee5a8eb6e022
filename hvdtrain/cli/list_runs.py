"""`hvdtrain list`: the runs so far."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="list")
@json_option
@runs_option
def command(as_json: bool, runs_root: Path) -> None:
    """List runs, newest first."""
    from hvdtrain import jobs
    from hvdtrain.rundir import find_runs

    rows = jobs.list_rows(runs_root, find_runs(runs_root))
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo(f"no runs under {runs_root}; start one: hvdtrain run configs/digits_cnn.yaml", err=True)
        return
    click.echo(f"{'id':<8} {'name':<24} {'started':<16} {'state':<11} {'ranks':>5}  metrics")
    for row in rows:
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items() if value is not None)
        ranks = "?" if row["ranks"] is None else row["ranks"]
        click.echo(f"{row['id']:<8} {row['name']:<24} {row['started']:<16} {row['state']:<11} {ranks:>5}  {metrics}")
