"""`hvdtrain render`: the job script."""

from __future__ import annotations

import os

import click

from hvdtrain.cli.options import changes_of, config_options, site_options


@click.command(name="render")
@click.argument("config", type=click.Path())
@config_options
@site_options
@click.option("--explain", is_flag=True, help="Print the reason above each line.")
@click.option("--here", is_flag=True, help="For this machine, byte for byte what `run` executes.")
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    site: str | None,
    nodes: int | None,
    explain: bool,
    here: bool,
) -> None:
    """Print the job script of CONFIG: for this kind of machine, or with --site the batch script for a cluster.

    Without --here the script is for a machine with Open MPI 5 and one core per rank, so that it is the same
    wherever it is printed.
    """
    from hvdtrain.facts import assumed_facts, gather_facts
    from hvdtrain.prepare import prepare
    from hvdtrain.sites import load_site

    changes = changes_of(ranks, strategy, launcher, settings, site=site, nodes=nodes)
    facts = gather_facts() if here else assumed_facts()
    profile = load_site(site, os.environ) if site else None
    prepared = prepare(config, facts, overrides=changes.overrides, options=changes.options, site=profile)
    click.echo(prepared.text(explain=explain), nl=False)
