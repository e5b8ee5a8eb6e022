"""`hvdtrain data`: data sets on a login node, before jobs need them."""

from __future__ import annotations

import os

import click


@click.group(name="data")
def command() -> None:
    """Fetch data sets where there is a network, before compute nodes need them."""


@command.command(name="list")
def list_data() -> None:
    """List the data sets that can be fetched, and whether they are there."""
    from hvdtrain.cli.show import nice_path
    from hvdtrain.fetch import FILES, data_folder

    folder = data_folder(os.environ)
    for name, known in FILES.items():
        state = "there" if (folder / known.file).is_file() else "not there"
        click.echo(f"{name:<16} {state:<10} {known.text}   ({nice_path(folder / known.file)})")


@command.command(name="fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch_data(names: tuple[str, ...]) -> None:
    """Download data sets into $HVDTRAIN_DATA, or Keras's cache; print where each one is."""
    from hvdtrain.cli.show import talk
    from hvdtrain.fetch import fetch

    for name in names:
        click.echo(fetch(name, os.environ, talk))
