"""`hvdtrain requeue`: a run's job once more."""

from __future__ import annotations

from pathlib import Path

import click

from hvdtrain.cli.options import runs_option


@click.command(name="requeue")
@click.argument("name", metavar="RUN")
@runs_option
def command(name: str, runs_root: Path) -> None:
    """Queue the job of RUN again; a running one saves its state first and goes on from there."""
    from hvdtrain.cli.show import talk
    from hvdtrain.control import requeue
    from hvdtrain.rundir import find_run

    talk(requeue(find_run(name, runs_root)))
