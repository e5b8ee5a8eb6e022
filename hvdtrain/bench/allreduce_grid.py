"""How well the cost model predicts sizes it has not seen: `python -m hvdtrain.bench.allreduce_grid`.

Sizes from 0.8 KiB to 54 MiB, two to a doubling; the model is fitted to every other one and asked for the rest: for the
way gradients travel here, for Horovod, and for mpi4py on buffers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.allreduce import measure_allreduce
from hvdtrain.bench.machine import describe
from hvdtrain.bench.options import numbers
from hvdtrain.bench.table import table
from hvdtrain.errors import HvdtrainError
from hvdtrain.facts import gather_facts
from hvdtrain.study.cost_model import fit_cost, relative_errors

# Between powers of two: buffers of just such a size share sets of the caches, take up to twice as long, and are rare.
SIZES = tuple(4 * round(256 * 2 ** (place / 2 - 1 / 4)) for place in range(33))
HEAD = ("ranks", "way", "sizes scored", "within", "share", "asked", "median error", "largest", "")
# Ranks -> (error, share of the sizes that is to be within it).
TARGETS = {2: (0.15, 0.90)}
CROWDED = (0.35, 0.80)  # more ranks than cores


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdtrain.bench.allreduce_grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=numbers, default=(2, 4, 8), help="default 2,4,8")
    parser.add_argument("--seconds", type=float, default=0.1, help="of each trial of a size (default 0.1)")
    parser.add_argument("--trials", type=int, default=15, help="of each size, all sizes in turn (default 15)")
    parser.add_argument("--out", type=Path, help="write every raw row to this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    found = []
    for ranks in options.ranks:
        print(f"{ranks} ranks, {len(SIZES)} sizes ...", file=sys.stderr, flush=True)
        found.append(measure_allreduce(ranks, SIZES, seconds=options.seconds, num_trials=options.trials))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    rows = [row for sweep in found for row in scores(sweep)]
    print(table(HEAD, rows, markdown=options.markdown))
    how = f"Times are the median of {options.trials} trials of {options.seconds:g} s."
    print(f"\n{describe(gather_facts())}. {how}")


def scores(sweep: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each way: fitted to the first, third, ... size, scored on the others."""
    limit, share = TARGETS.get(sweep["num_ranks"], CROWDED)
    lines: list[tuple[str, ...]] = []
    for way in dict.fromkeys(row["way"] for row in sweep["rows"]):
        points = sorted((row["bytes"], row["seconds"]) for row in sweep["rows"] if row["way"] == way)
        known, unknown = points[::2], points[1::2]
        model = fit_cost(sweep["num_ranks"], *zip(*known, strict=True))
        errors = sorted(relative_errors(model, *zip(*unknown, strict=True)))
        within = sum(error <= limit for error in errors) / len(errors)
        lines.append(
            (
                str(sweep["num_ranks"]), way, str(len(errors)), f"{limit:.0%}", f"{within:.0%}", f">= {share:.0%}",
                f"{errors[len(errors) // 2]:.1%}", f"{errors[-1]:.0%}", "met" if within >= share else "NOT MET",
            )
        )  # fmt: skip
    return lines


if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        sys.exit(f"hvdtrain: {error}")
