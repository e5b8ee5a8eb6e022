"""`hvdtrain cancel`: stop a run's job."""

from __future__ import annotations

from pathlib import Path

import click

from hvdtrain.cli.options import runs_option


@click.command(name="cancel")
@click.argument("name", metavar="RUN")
@click.option("--now", is_flag=True, help="Tell the scheduler to end it at once: saved only if there is time.")
@runs_option
def command(name: str, now: bool, runs_root: Path) -> None:
    """Stop the job of RUN, or of a whole array; it saves its state first, and is not queued again."""
    from hvdtrain.cli.show import talk
    from hvdtrain.control import cancel
    from hvdtrain.rundir import find_runs_named

    for done in cancel(find_runs_named(name, runs_root), at_once=now):
        talk(done)
