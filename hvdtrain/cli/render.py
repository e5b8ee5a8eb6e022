"""`hvdtrain render`: the job script."""

from __future__ import annotations

import click

from hvdtrain.cli.options import changes_of, config_options


@click.command(name="render")
@click.argument("config", type=click.Path())
@config_options
@click.option("--explain", is_flag=True, help="Print the reason above each line.")
@click.option("--here", is_flag=True, help="For this machine, byte for byte what `run` executes.")
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    explain: bool,
    here: bool,
) -> None:
    """Print the job script of CONFIG.

    Without --here the script is for a machine with Open MPI 5 and one core per rank, so that it is the same
    wherever it is printed.
    """
    from hvdtrain.facts import assumed_facts, gather_facts
    from hvdtrain.launch.shell import script_text
    from hvdtrain.prepare import prepare

    changes = changes_of(ranks, strategy, launcher, settings)
    facts = gather_facts() if here else assumed_facts()
    prepared = prepare(config, facts, overrides=changes.overrides, options=changes.options)
    click.echo(script_text(prepared.script, explain=explain), nl=False)
