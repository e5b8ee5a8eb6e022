"""`hvdtrain site`: site profiles."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.group(name="site")
def command() -> None:
    """List, show and draft site profiles: what hvdtrain must know about a cluster."""


@command.command(name="list")
def list_sites() -> None:
    """List the profiles that --site can name."""
    from hvdtrain.cli.show import nice_path
    from hvdtrain.errors import HvdtrainError
    from hvdtrain.sites import load_site, site_files

    for name, path in sorted(dict(site_files(os.environ)).items()):
        try:
            text = load_site(name, os.environ).description
        except HvdtrainError as error:
            text = f"not usable: {str(error).splitlines()[0]}"
        click.echo(f"{name:<16} {text}   ({nice_path(path)})")


@command.command(name="show")
@click.argument("name")
def show(name: str) -> None:
    """Print a profile as it is in its file."""
    from hvdtrain.sites import find_site, load_site

    load_site(name, os.environ)
    click.echo(find_site(name, os.environ).read_text(encoding="utf-8"), nl=False)


@command.command(name="init")
@click.argument("name")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: among your own profiles.")
@click.option("--force", is_flag=True, help="Replace a profile that is there.")
def init(name: str, output: Path | None, force: bool) -> None:
    """Draft the profile NAME from what sinfo says here; read it, correct it, then use it."""
    from hvdtrain.cli.show import nice_path, talk
    from hvdtrain.errors import ConfigError
    from hvdtrain.rundir import write_text
    from hvdtrain.schedulers.draft import draft_site
    from hvdtrain.sites import load_site, user_folder

    path = output or user_folder(os.environ) / f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output: {path} must end with .yaml")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force replaces it")
    text = draft_site(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    load_site(str(path), os.environ)
    talk(f"{nice_path(path)}: read it and correct it; lines with CHECK are guesses")
