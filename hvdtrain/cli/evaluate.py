"""`hvdtrain evaluate`: metrics of a run's newest checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="evaluate")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--robustness", is_flag=True, help="Accuracy on rotated, scaled, shifted and noisy test images.")
@json_option
@runs_option
def command(runs: tuple[str, ...], robustness: bool, as_json: bool, runs_root: Path) -> None:
    """Evaluate RUN (a directory or short id) on its test data, in one process.

    \b
    hvdtrain evaluate 3fa9c1
    hvdtrain evaluate PLAIN AUGMENTED --robustness      # side by side
    """
    from hvdtrain import jobs
    from hvdtrain.cli.show import talk
    from hvdtrain.errors import ConfigError

    if len(runs) > 1 and not robustness:
        raise ConfigError(f"evaluate takes one run, with --robustness several; got {len(runs)}")
    try:
        results = [jobs.evaluate_run(run, runs_root, robustness=robustness) for run in runs]
    except jobs.WorkerFailedError as error:
        sys.exit(error.code)
    if as_json:
        click.echo(json.dumps(results if robustness else results[0]))
    elif robustness:
        from hvdtrain.study.robustness import columns, robustness_table

        names = columns([result["name"] for result in results])
        accuracies = [result["accuracy"] for result in results]
        click.echo(robustness_table(dict(zip(names, accuracies, strict=True))))
    else:
        if results[0]["stand_in_for"]:
            talk(f"NOT REAL: {jobs.stand_in_words(results[0])}")
        for name, value in results[0]["metrics"].items():
            click.echo(f"{name:<24} {value:.6f}")
