"""`hvdtrain submit`: a configuration as a batch job."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options, resume_option, runs_option, site_options


@click.command(name="submit")
@click.argument("words", nargs=-1, metavar="CONFIG")
@config_options
@site_options
@resume_option
@click.option("--dry-run", is_flag=True, help="Print the script and submit nothing.")
@runs_option
def command(
    words: tuple[str, ...],
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    site: str | None,
    nodes: int | None,
    resume: str | None,
    dry_run: bool,
    runs_root: Path,
) -> None:
    """Submit CONFIG to the scheduler of a site; the job's id alone is printed on standard output.

    \b
    hvdtrain submit configs/digits_cnn.yaml --site local-cluster --nodes 2
    """
    from hvdtrain.cli.run import what_to_run
    from hvdtrain.submit import submit_config

    changes = changes_of(ranks, strategy, launcher, settings, site=site, nodes=nodes)
    config_path, resume = what_to_run(words, resume, verb="submit")
    sys.exit(submit_config(config_path, changes, resume=resume, dry_run=dry_run, runs_root=runs_root))
