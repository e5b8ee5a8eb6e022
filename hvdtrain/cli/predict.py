"""`hvdtrain predict`: what a run's newest checkpoint makes of a file of inputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="predict")
@click.argument("run")
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="NAME.csv: one answer for each row, as Kaggle takes it. NAME.npy: the model's outputs, such as "
    "probabilities. Default: RUN/predictions/INPUT.csv.",
)
@click.option("--header", default="ImageId,Label", show_default=True, help="First line of the CSV file.")
@click.option("--ranks", type=click.IntRange(min=1), default=1, show_default=True, help="Processes to start.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
@runs_option
def command(
    run: str,
    source: Path,
    output: Path | None,
    header: str,
    ranks: int,
    force: bool,
    as_json: bool,
    runs_root: Path,
) -> None:
    """Predict with the newest checkpoint of RUN (a directory or short id) what belongs to each row of INPUT.

    INPUT is a .csv file of numbers with a header or without, or a .npy or .npz file. Its rows go through the function
    that data.inputs names, if there is one, or are taken as the model's inputs.
    """
    from hvdtrain import jobs, predicting
    from hvdtrain.cli.show import nice_path, talk

    try:
        result = predicting.predict_run(
            run, runs_root, source, output=output, num_ranks=ranks, header=header, force=force
        )
    except jobs.WorkerFailedError as error:
        sys.exit(error.code)
    for note in result["notes"]:
        talk(f"NOT REAL: {note}")
    if as_json:
        click.echo(json.dumps(result))
    else:
        click.echo(f"{nice_path(Path(result['path']))}   {result['rows']:,} rows, step {result['step']}")
