"""`hvdtrain forecast`: what more ranks would do."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, ranks_of, studies_option


@click.command(name="forecast")
@click.argument("study", required=False, default="")
@click.option("--ranks", callback=ranks_of, required=True, metavar="64,512,4096", help="Numbers of ranks.")
@click.option("--network", metavar="NAME|FILE", help="A preset or a YAML file; default: what the study measured.")
@click.option("--site", metavar="SITE", help="Whose rates the charge is at.")
@json_option
@studies_option
def command(
    study: str, ranks: tuple[int, ...], network: str | None, site: str | None, as_json: bool, root: Path
) -> None:
    """Forecast the efficiency, time and node hours of a STUDY's model on more ranks; the newest study by default.

    \b
    hvdtrain forecast --ranks 64,512,4096 --network ib-hdr --site bridges2
    """
    from hvdtrain.bench.table import table
    from hvdtrain.cli.show import nice_path, talk
    from hvdtrain.forecasting import forecast_study
    from hvdtrain.report import write_report
    from hvdtrain.study.forecast_words import HEAD, forecast_cells, forecast_lines
    from hvdtrain.studydir import find_study

    chosen = find_study(study, root)
    found = forecast_study(chosen, ranks, network=network, site=site)
    write_report(chosen)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(table(HEAD, forecast_cells(found), markdown=False))
    print("\n" + "\n".join(forecast_lines(found)))
    talk(f"\nreport: {nice_path(chosen.report)}")
