"""`hvdtrain why`: the plain cause of a run's end."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, runs_option


@click.command(name="why")
@click.argument("name", metavar="RUN")
@json_option
@runs_option
def command(name: str, as_json: bool, runs_root: Path) -> None:
    """Tell why RUN ended or waits, and which key of the configuration to change."""
    from hvdtrain.cli.show import go_on, name_of
    from hvdtrain.control import evidence_of
    from hvdtrain.rundir import find_run
    from hvdtrain.why import cause_of

    run = find_run(name, runs_root)
    cause = cause_of(evidence_of(run))
    names = {"GO_ON": go_on(run), "RUN": name_of(run)}
    cause = dataclasses.replace(cause, fix=re.sub("GO_ON|RUN", lambda found: names[found[0]], cause.fix))
    if as_json:
        click.echo(json.dumps({"run": str(run.path), **dataclasses.asdict(cause)}))
        return
    click.echo(f"cause: {cause.text}")
    if cause.evidence:
        click.echo(f"seen:  {cause.evidence}")
    click.echo(f"fix:   {cause.fix}")
