"""What `hvdtrain tune` chooses beside the best of all combinations: `python -m hvdtrain.bench.tune_grid CONFIG`.

First `tune` runs. Then every combination of the settings it may choose from is measured, in turn, and the best of them,
what `tune` chose and the configuration as it is once more against each other: the best of many noisy numbers is too
good to be true.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from hvdtrain.bench.machine import describe
from hvdtrain.bench.statistics import estimate, paired_ratios
from hvdtrain.bench.table import table
from hvdtrain.cli.show import talk
from hvdtrain.errors import HvdtrainError
from hvdtrain.facts import gather_facts
from hvdtrain.prepare import prepare
from hvdtrain.study.knobs import DEFAULT, Setting, settings
from hvdtrain.tuning import Bench, tune, tuned_text

FOREVER_S = 24 * 3600.0
TUNED = "chosen by tune"
HEAD = ("against", "speed of what tune chose", "interval", "n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, measure all combinations, compare."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdtrain.bench.tune_grid",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=5.0, help="of tune (default 5)")
    parser.add_argument("--repeats", type=int, default=2, help="of each combination (default 2)")
    parser.add_argument("--final-repeats", type=int, default=7, help="of the comparison (default 7)")
    options = parser.parse_args(arguments)
    tuned = tune(options.config, options.overrides, minutes=options.minutes, allows_rounding=False)
    print(tuned_text(tuned) + "\n", flush=True)
    facts = gather_facts()
    with tempfile.TemporaryDirectory(prefix="hvdtrain-grid-") as folder:
        deadline = time.monotonic() + FOREVER_S
        bench = Bench(options.config, tuple(options.overrides), facts, Path(folder), deadline)
        grid = {" ".join(setting.override for setting in combined): combined for combined in combinations(options)}
        measure_in_turn(bench, grid, options.repeats)
        speeds = {name: median(found.values()) for name, found in bench.throughputs.items()}
        best = max(speeds, key=lambda name: speeds[name])
        talk(f"best of {len(speeds)} combinations: {best}")
        bench.throughputs = {}
        finalists: dict[str, Sequence[Setting]] = {DEFAULT: (), TUNED: tuned.chosen, best: grid[best]}
        measure_in_turn(bench, finalists, options.final_repeats)
    rows = []
    for name in (best, DEFAULT):
        found = estimate(paired_ratios(bench.throughputs[TUNED], bench.throughputs[name]))
        assert found is not None
        shown = f"best of {len(speeds)} combinations ({name})" if name == best else name
        rows.append((shown, f"{found.median:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.n)))
    print(table(HEAD, rows, markdown=True))
    print(f"\n{describe(facts)}.")


def combinations(options: argparse.Namespace) -> list[tuple[Setting, ...]]:
    """Return every combination of the values that leave all bits as they are."""
    plan = prepare(options.config, gather_facts(), overrides=options.overrides).plan
    found = settings(
        num_ranks=plan.num_ranks, steps_per_epoch=plan.steps_per_epoch, now={}, shares_memory=True,
        cores_per_rank=plan.cores_per_rank,
    )  # fmt: skip
    if plan.num_ranks == 2:
        found.append(Setting("horovod.reduction", "auto"))
    by_key: dict[str, list[Setting]] = {}
    for setting in found:
        if not setting.changes_rounding:
            by_key.setdefault(setting.key, []).append(setting)
    return list(itertools.product(*by_key.values()))


def measure_in_turn(bench: Bench, chosen: Mapping[str, Sequence[Setting]], repeats: int) -> None:
    """Measure all in each repeat, every other repeat backwards."""
    for repeat in range(repeats):
        names = list(chosen) if repeat % 2 == 0 else list(chosen)[::-1]
        for name in names:
            bench.measure(name, chosen[name], repeat)


if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        sys.exit(f"hvdtrain: {error}")
