"""`hvdtrain data`: data sets on a login node, before jobs need them."""

from __future__ import annotations

import os

import click


@click.group(name="data")
def command() -> None:
    """Fetch data sets where there is a network, before compute nodes need them."""


@command.command(name="list")
def list_data() -> None:
    """List the data sets that can be fetched, or put in their place by hand, and whether they are there."""
    from hvdtrain.cli.show import nice_path
    from hvdtrain.data_files import DATA_SETS
    from hvdtrain.fetch import data_folder, find, place_of

    folder = data_folder(os.environ)
    for name, known in DATA_SETS.items():
        found = find(known, folder)
        state = "there" if found else "by hand" if known.log_in else "not there"
        click.echo(f"{name:<19} {state:<10} {known.text}   ({nice_path(found or place_of(known, folder))})")


@command.command(name="fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch_data(names: tuple[str, ...]) -> None:
    """Download data sets into $HVDTRAIN_DATA, or Keras's cache; print where each one is."""
    from hvdtrain.cli.show import talk
    from hvdtrain.fetch import fetch

    for name in names:
        click.echo(fetch(name, os.environ, talk))
