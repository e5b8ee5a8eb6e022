"""`hvdtrain status`: where runs and their jobs are."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option

MAX_RUNS = 100


@click.command(name="status")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@json_option
@runs_option
def command(names: tuple[str, ...], as_json: bool, runs_root: Path) -> None:
    """Show where runs are: a run directory, a short id or a job id; without one, the newest runs."""
    from hvdtrain.cli.show import status_table, status_text
    from hvdtrain.rundir import find_runs, find_runs_named
    from hvdtrain.watch import statuses

    runs = [run for name in names for run in find_runs_named(name, runs_root)] or find_runs(runs_root)[:MAX_RUNS]
    rows = statuses(runs)
    if as_json:
        click.echo(json.dumps([row.as_json() for row in rows]))
    elif not rows:
        click.echo(f"no runs under {runs_root}; start one: hvdtrain run configs/digits_cnn.yaml", err=True)
    else:
        click.echo("\n\n".join(map(status_text, rows)) if names else status_table(rows))
