"""`hvdtrain outcome`, for batch scripts: how a start of a run has ended."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(name="outcome", hidden=True)
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--launcher-code", type=int, required=True, help="What the launcher ended with.")
def command(run: Path, launcher_code: int) -> None:
    """Tell how a start of RUN has ended, and end with the exit code that says so."""
    from hvdtrain import jobs
    from hvdtrain.rundir import RunDir

    sys.exit(jobs.outcome(RunDir(run.resolve()), launcher_code))
