"""`hvdtrain doctor`: can this environment train, and what to do if not."""

from __future__ import annotations

import json
import sys

import click

from hvdtrain.errors import ExitCode


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--in-container", "image", metavar="IMAGE", help="Look into an image instead, with Apptainer.")
@click.option("--runtime", type=click.Choice(["apptainer", "singularity"]), default="apptainer", show_default=True)
@click.option("--python", default="python3", show_default=True, help="The image's Python.")
@click.option("--python-path", metavar="FOLDER", help="Where hvdtrain is for that Python (container.python_path).")
def command(as_json: bool, image: str | None, runtime: str, python: str, python_path: str | None) -> None:
    """Check TensorFlow, Keras, MPI and Horovod with a real start of 2 ranks; exit 3 if training cannot work.

    Works without a network, and whatever is missing: each finding names its fix.
    """
    if image is not None:
        sys.exit(look_into_image(image, runtime, python, python_path, as_json=as_json))
    from hvdtrain.doctor.findings import can_train, judge
    from hvdtrain.doctor.show import findings_text, to_json
    from hvdtrain.doctor.survey import take_survey

    click.echo("looking around and starting 2 ranks (about 10 s) ...", err=True)
    survey = take_survey(with_ranks=True)
    findings = judge(survey)
    click.echo(to_json(findings, survey) if as_json else findings_text(findings))
    if not can_train(findings):
        sys.exit(ExitCode.ENVIRONMENT)


def look_into_image(image: str, runtime: str, python: str, python_path: str | None, *, as_json: bool) -> int:
    """Print the findings about an image and return the exit code."""
    from hvdtrain.doctor.container import judge_image, look_inside
    from hvdtrain.doctor.findings import can_train
    from hvdtrain.doctor.show import findings_text
    from hvdtrain.facts import gather_facts

    seen = look_inside(image, runtime=runtime, python=python, python_path=python_path)
    findings = judge_image(image, seen, host_mpi=gather_facts().mpi_found)
    is_fit = can_train(findings)
    if as_json:
        data = {"can_train": is_fit, "findings": [vars(one) for one in findings], "image": seen}
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo(findings_text(findings))
    return int(ExitCode.OK if is_fit else ExitCode.ENVIRONMENT)
