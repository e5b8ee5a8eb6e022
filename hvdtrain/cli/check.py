"""`hvdtrain check`: is this configuration right?"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from hvdtrain.cli.options import changes_of, config_options


@click.command(name="check")
@click.argument("config", type=click.Path())
@config_options
@click.option("--deep", is_flag=True, help="Also build the model and load the data, in one process.")
def command(
    config: str,
    ranks: int | None,
    strategy: str | None,
    launcher: str | None,
    settings: tuple[str, ...],
    deep: bool,
) -> None:
    """Check CONFIG and its numbers; with --deep also that the model builds and the data fit it."""
    from hvdtrain import jobs
    from hvdtrain.cli.show import talk
    from hvdtrain.facts import gather_facts
    from hvdtrain.prepare import new_run, prepare

    changes = changes_of(ranks, strategy, launcher, settings)
    prepared = prepare(config, gather_facts(), overrides=changes.overrides, options=changes.options)
    if deep:
        with tempfile.TemporaryDirectory(prefix="hvdtrain-check-") as folder:
            try:
                jobs.check_deep(new_run(prepared, Path(folder)))
            except jobs.WorkerFailedError as error:
                sys.exit(error.code)
    for warning in prepared.plan.warnings:
        talk(f"warning: {warning}")
    talk(f"{config}: ok" + (", model and data too" if deep else "; --deep also builds the model and loads the data"))
