"""`hvdtrain diff`: what differed between two runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="diff")
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@json_option
@runs_option
def command(first: str, second: str, as_json: bool, runs_root: Path) -> None:
    """Compare two runs (directories or short ids): configuration, versions, data, seeds, world and results.

    The exit code is 0 if nothing differs and 1 if something does, as with diff.
    """
    from hvdtrain.diff import difference_text, differences
    from hvdtrain.rundir import find_run

    runs = find_run(first, runs_root), find_run(second, runs_root)
    found = differences(*runs)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(difference) for difference in found]))
    else:
        click.echo(difference_text(found, (runs[0].short_id, runs[1].short_id)))
    sys.exit(1 if found else 0)
