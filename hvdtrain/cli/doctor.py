"""`hvdtrain doctor`: can this environment train, and what to do if not."""

from __future__ import annotations

import sys

import click

from hvdtrain.errors import ExitCode


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Check TensorFlow, Keras, MPI and Horovod with a real start of 2 ranks; exit 3 if training cannot work.

    Works without a network, and whatever is missing: each finding names its fix.
    """
    from hvdtrain.doctor.findings import can_train, judge
    from hvdtrain.doctor.show import findings_text, to_json
    from hvdtrain.doctor.survey import take_survey

    click.echo("looking around and starting 2 ranks (about 10 s) ...", err=True)
    survey = take_survey(with_ranks=True)
    findings = judge(survey)
    click.echo(to_json(findings, survey) if as_json else findings_text(findings))
    if not can_train(findings):
        sys.exit(ExitCode.ENVIRONMENT)
