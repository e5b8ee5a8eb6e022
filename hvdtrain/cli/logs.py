"""`hvdtrain logs`: what a run or one of its ranks says."""

from __future__ import annotations

from pathlib import Path

import click

from hvdtrain.cli.options import runs_option


@click.command(name="logs")
@click.argument("name", metavar="RUN")
@click.option("--rank", type=click.IntRange(min=0), help="The log of one rank. Default: the job's, else rank 0's.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends; Ctrl-C leaves it running.")
@runs_option
def command(name: str, rank: int | None, follow: bool, runs_root: Path) -> None:
    """Print the log of RUN: a run directory, a short id or a job id."""
    from hvdtrain import watch
    from hvdtrain.cli.show import name_of, talk
    from hvdtrain.errors import NotFoundError
    from hvdtrain.rundir import find_run

    run = find_run(name, runs_root)
    if follow:
        row = watch.statuses([run])[0]
        if row.state == "pending":
            talk(f"job {row.job_id} is pending ({row.reason}); its log is shown once it starts")
        for text in watch.follow(run, rank):
            click.echo(text, nl=False)
        return
    log = watch.newest_log(run, rank)
    if log is None:
        whose = f"rank {rank}" if rank is not None else "it"
        raise NotFoundError(f"{run.path}: {whose} has no log; where the run is: hvdtrain why {name_of(run)}")
    click.echo(log.read_text(encoding="utf-8", errors="replace"), nl=False)
