"""`hvdtrain augment`: what a configuration's augmentation makes of its images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of


@click.command(name="augment")
@click.argument("config", type=click.Path())
@click.option("--preview", "output", type=click.Path(dir_okay=False, path_type=Path), default=Path("augmented.png"),
              show_default=True, help="The picture; what is there is replaced.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key, e.g. data.augment.shear=10.")
def command(config: str, output: Path, settings: tuple[str, ...]) -> None:
    """Draw CONFIG's first training images as they are, and as some epochs will see them.

    \b
    hvdtrain augment mine.yaml --preview out.png
    hvdtrain augment mine.yaml --set data.augment.rotation=15 --set data.augment.translation=0.1
    """
    from hvdtrain import jobs
    from hvdtrain.cli.show import talk

    try:
        jobs.preview(config, changes_of(None, None, None, settings), output)
    except jobs.WorkerFailedError as error:
        sys.exit(error.code)
    talk(f"above: as they are; below: as epochs see them: {output}")
