"""`hvdtrain allreduce`: how long adding up gradients takes here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hvdtrain.cli.options import json_option, writable
from hvdtrain.errors import ExitCode


def sizes_of(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Return the sizes."""
    from hvdtrain.sizes import to_sizes

    try:
        return to_sizes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(name="allreduce")
@click.option("--ranks", type=click.IntRange(min=2), default=2, show_default=True, help="Processes to start.")
@click.option("--sizes", callback=sizes_of, default="1KiB:64MiB", show_default=True,
              help="Bytes on each rank: a range, doubling, or a list with commas.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0.01), default=0.1, show_default=True,
              help="Of each of the five trials of each size and way.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), callback=writable,
              help="Write the numbers to this JSON file.")  # fmt: skip
@json_option
def command(ranks: int, sizes: list[int], seconds: float, out: Path | None, as_json: bool) -> None:
    """Time an allreduce through Horovod, as gradients travel here, and through mpi4py, and fit a cost model.

    Times are means over the ranks; algbw and busbw are those of nccl-tests. The result is checked.
    """
    from hvdtrain.allreduce import measure_allreduce, sweep_text
    from hvdtrain.rundir import write_text

    found = measure_allreduce(ranks, sizes, seconds=seconds)
    text = json.dumps(found, indent=1)
    if out is not None:
        write_text(out, text + "\n")
    print(text if as_json else sweep_text(found))
    if not all(row["is_right"] for row in found["rows"]):
        click.echo("hvdtrain: an allreduce gave a wrong result; run: hvdtrain doctor", err=True)
        sys.exit(int(ExitCode.OUT_OF_SYNC))
