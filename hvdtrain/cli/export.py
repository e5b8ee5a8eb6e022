"""`hvdtrain export`: a run's newest checkpoint as a file that plain Keras or TensorFlow loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="export")
@click.argument("run")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["keras", "savedmodel", "weights", "html"]),
    help="keras: model and weights in one .keras file. savedmodel: a directory for serving. weights: .weights.h5. "
    "html: a page that runs the network where you draw. Default: what the output's name says, else keras.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to. Default: below RUN/export/.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
@runs_option
def command(run: str, kind: str | None, output: Path | None, force: bool, as_json: bool, runs_root: Path) -> None:
    """Write the newest checkpoint of RUN (a directory or short id) in a form that needs no hvdtrain.

    The optimizer is left out: the file is for inference and fine-tuning. To go on training use run --resume.
    """
    from hvdtrain import export, jobs
    from hvdtrain.cli.show import nice_path

    try:
        result = export.export_run(run, runs_root, kind=kind, output=output, force=force)
    except jobs.WorkerFailedError as error:
        sys.exit(error.code)
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{nice_path(Path(result['path']))}   step {result['step']}, {result['parameters']:,} parameters")
        for note in result["notes"]:
            click.echo(f"note: {note}", err=True)
