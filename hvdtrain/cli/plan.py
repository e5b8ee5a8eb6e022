"""`hvdtrain plan`: every derived number and the rule that made it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options, json_option, runs_option, site_options


@click.command(name="plan")
@click.argument("config", type=click.Path())
@config_options
@site_options
@json_option
@click.option("--new-run", "is_new_run", is_flag=True, help="Also make a run directory; print only its path.")
@click.option("--run-id", hidden=True, help="With --new-run: short id of the run; an existing one is taken.")
@runs_option
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    site: str | None,
    nodes: int | None,
    as_json: bool,
    is_new_run: bool,
    run_id: str | None,
    runs_root: Path,
) -> None:
    """Print the ledger of CONFIG here, or with --site on a cluster: each number and the rule that made it."""
    from hvdtrain.cli.show import ledger_text, talk
    from hvdtrain.facts import gather_facts
    from hvdtrain.prepare import new_run, prepare, run_of_job
    from hvdtrain.sites import load_site

    changes = changes_of(ranks, strategy, launcher, settings, site=site, nodes=nodes)
    profile = load_site(site, os.environ) if site else None
    prepared = prepare(config, gather_facts(), overrides=changes.overrides, options=changes.options, site=profile)
    if is_new_run:
        talk(ledger_text(prepared.plan))
        run = new_run(prepared, runs_root) if run_id is None else run_of_job(prepared, runs_root, run_id)
        click.echo(run.path)
    elif as_json:
        click.echo(prepared.plan.to_json(), nl=False)
    else:
        click.echo(ledger_text(prepared.plan))
