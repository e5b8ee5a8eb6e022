"""`hvdtrain plan`: every derived number and the rule that made it."""

from __future__ import annotations

from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options, json_option, runs_option


@click.command(name="plan")
@click.argument("config", type=click.Path())
@config_options
@json_option
@click.option("--new-run", "is_new_run", is_flag=True, help="Also make a run directory; print only its path.")
@runs_option
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    is_new_run: bool,
    runs_root: Path,
) -> None:
    """Print the ledger of CONFIG on this machine: each number and the rule that made it."""
    from hvdtrain.cli.show import ledger_text, talk
    from hvdtrain.facts import gather_facts
    from hvdtrain.prepare import new_run, prepare

    changes = changes_of(ranks, strategy, launcher, settings)
    prepared = prepare(config, gather_facts(), overrides=changes.overrides, options=changes.options)
    if is_new_run:
        talk(ledger_text(prepared.plan))
        click.echo(new_run(prepared, runs_root).path)
    elif as_json:
        click.echo(prepared.plan.to_json(), nl=False)
    else:
        click.echo(ledger_text(prepared.plan))
