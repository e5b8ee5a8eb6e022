"""`hvdtrain schema`: the JSON Schema of configurations."""

from __future__ import annotations

import json

import click

from hvdtrain.config_file import config_schema


@click.command()
def command() -> None:
    """Print the JSON Schema of configurations, for editors.

    Save it (hvdtrain schema > hvdtrain.schema.json) and begin a configuration with
    "# yaml-language-server: $schema=hvdtrain.schema.json": editors then complete and check keys.
    """
    click.echo(json.dumps(config_schema(), indent=2))
