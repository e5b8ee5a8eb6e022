"""`hvdtrain interact`: an interactive allocation on a site."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

import click


@click.command(name="interact")
@click.argument("words", nargs=-1, metavar="[-- COMMAND]")
@click.option("--site", required=True, help="Site profile, by name or path.")
@click.option("--partition", help="Default: the site's.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--ranks-per-node", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--cpus", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs per rank.")
@click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs per node.")
@click.option("--minutes", type=click.IntRange(min=1), default=60, show_default=True)
@click.option("--account")
@click.option("--dry-run", is_flag=True, help="Print the command and take nothing.")
def command(
    words: tuple[str, ...],
    site: str,
    partition: str | None,
    nodes: int,
    ranks_per_node: int,
    cpus: int,
    gpus: int,
    minutes: int,
    account: str | None,
    dry_run: bool,
) -> None:
    """Take nodes of a site for a while, and open a shell on the first one, or run COMMAND there."""
    from hvdtrain.errors import EnvironmentNotFitError
    from hvdtrain.interactive import Wish, allocation_command
    from hvdtrain.sites import load_site

    profile = load_site(site, os.environ)
    wish = Wish(partition, nodes, ranks_per_node, cpus, gpus, minutes, account)
    line = allocation_command(profile, wish, words)
    if dry_run:
        click.echo(shlex.join(line))
        return
    if shutil.which(line[0]) is None:
        raise EnvironmentNotFitError(f"{line[0]} is not on PATH: log in to {profile.login_host or 'the cluster'} first")
    click.echo(shlex.join(line), err=True)
    sys.stdout.flush()
    os.execvp(line[0], line)
