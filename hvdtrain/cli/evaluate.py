"""`hvdtrain evaluate`: metrics of a run's newest checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="evaluate")
@click.argument("run")
@json_option
@runs_option
def command(run: str, as_json: bool, runs_root: Path) -> None:
    """Evaluate RUN (a directory or short id) on its test data, in one process."""
    from hvdtrain import jobs

    try:
        result = jobs.evaluate_run(run, runs_root)
    except jobs.WorkerFailedError as error:
        sys.exit(error.code)
    if as_json:
        click.echo(json.dumps(result))
    else:
        for name, value in result["metrics"].items():
            click.echo(f"{name:<24} {value:.6f}")
