"""How good and how fast a recipe is on 1, 2 and more ranks: `python -m hvdtrain.bench.recipe CONFIG --ranks 1,2,4`.

Each seed is trained with each number of ranks, in turn. Seconds count from before the first step to the end of the last
evaluation, tracing included; starting Python and TensorFlow, reading the data and the last checkpoint are not in them.
Give the configuration a `global_batch_size`, so that every number of ranks makes the same updates.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from hvdtrain.bench.launch import SIGNALLED
from hvdtrain.bench.machine import describe
from hvdtrain.bench.options import numbers
from hvdtrain.bench.statistics import estimate, paired_ratios, rotated
from hvdtrain.bench.table import table
from hvdtrain.cli.show import talk
from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.facts import Facts, gather_facts
from hvdtrain.jobs import execute_script
from hvdtrain.measuring import failure_words
from hvdtrain.metrics import read_records
from hvdtrain.prepare import new_run, prepare
from hvdtrain.rundir import RunDir
from hvdtrain.runner import rank_environment

HEAD = ("ranks", "n", "accuracy, %", "error", "lowest", "seconds", "quartiles")
RATIO_HEAD = ("seconds against", "median", "95 % interval", "n")


@dataclass(frozen=True)
class Trial:
    """One training.

    Args:
        num_ranks: It ran on.
        seed: Of weights, order and augmentation.
        accuracy: On the test set after the last epoch, per cent.
        seconds: From before the first step to the end of the last evaluation.
    """

    num_ranks: int
    seed: int
    accuracy: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every seed with every number of ranks, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdtrain.bench.recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--ranks", type=numbers, default=(1, 2), help="numbers of ranks, with commas (default 1,2)")
    parser.add_argument("--seeds", type=int, default=20, help="trainings with each number (default 20)")
    parser.add_argument("--first-seed", type=int, default=0, help="(default 0)")
    parser.add_argument("--json", type=Path, help="also write every training as a line of this file")
    options = parser.parse_args(arguments)
    facts, trials = gather_facts(), list[Trial]()
    with tempfile.TemporaryDirectory(prefix="hvdtrain-recipe-") as folder:
        try:
            for number, seed in enumerate(range(options.first_seed, options.first_seed + options.seeds)):
                for ranks in rotated(options.ranks, number):
                    trials.append(train(options.config, options.overrides, ranks, seed, facts, Path(folder)))
                    trial = trials[-1]
                    talk(f"{ranks} ranks, seed {seed}: {trial.accuracy:.2f} % in {trial.seconds:.2f} s")
                    if options.json:
                        with open(options.json, "a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(trial)) + "\n")
        except KeyboardInterrupt:
            talk("stopped; these are the trainings that ended")
    print(recipe_tables(trials) + f"\n\n{describe(facts)}.")


def train(config: str, overrides: Sequence[str], num_ranks: int, seed: int, facts: Facts, root: Path) -> Trial:
    """Train once.

    Raises:
        UserCodeError: If training failed.
        KeyboardInterrupt: If a signal stopped it.
    """
    changes = [*overrides, f"launch.num_ranks={num_ranks}", f"training.seed={seed}"]
    prepared = prepare(config, facts, overrides=changes)
    run = new_run(prepared, root, name=f"{num_ranks}_ranks_seed_{seed}")
    environ = {**rank_environment(dict(os.environ)), "HVDTRAIN_PROGRESS": "quiet"}
    code = execute_script(run, environ)
    if code in SIGNALLED:
        raise KeyboardInterrupt
    if code:
        raise UserCodeError(failure_words(run, f"{num_ranks} ranks, seed {seed}", code))
    return trial_of(run, num_ranks, seed)


def trial_of(run: RunDir, num_ranks: int, seed: int) -> Trial:
    """Return what a finished run's records say."""
    records = list(read_records(run.metrics))
    start = next(record for record in records if record["kind"] == "start")
    last = [record for record in records if record["kind"] == "epoch"][-1]
    return Trial(num_ranks, seed, 100 * last["val_accuracy"], last["time"] - start["time"])


def recipe_tables(trials: Sequence[Trial]) -> str:
    """Return accuracy and seconds for each number of ranks, and the seconds of each against those of the first.

    >>> print(recipe_tables([Trial(1, 0, 99.0, 5.0), Trial(1, 1, 99.2, 6.0)]))
    | ranks | n | accuracy, % | error | lowest | seconds | quartiles    |
    |-------|---|-------------|-------|--------|---------|--------------|
    | 1     | 2 | 99.100      | 0.100 | 99.00  | 5.50    | 5.25 to 5.75 |
    """
    by_ranks: dict[int, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.num_ranks):
        by_ranks.setdefault(trial.num_ranks, []).append(trial)
    text = table(HEAD, [_row(ranks, found) for ranks, found in by_ranks.items()], markdown=True)
    seconds = {ranks: {trial.seed: trial.seconds for trial in found} for ranks, found in by_ranks.items()}
    ratios = [_ratio_row(ranks, min(seconds), seconds) for ranks in list(seconds)[1:]]
    return "\n\n".join([text, *([table(RATIO_HEAD, ratios, markdown=True)] if ratios else [])])


def _row(num_ranks: int, trials: Sequence[Trial]) -> tuple[str, ...]:
    accuracies = [trial.accuracy for trial in trials]
    seconds = [trial.seconds for trial in trials]
    error = stdev(accuracies) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else 0.0
    spread = estimate(seconds)
    assert spread is not None
    return (
        str(num_ranks),
        str(len(trials)),
        f"{fmean(accuracies):.3f}",
        f"{error:.3f}",
        f"{min(accuracies):.2f}",
        f"{median(seconds):.2f}",
        f"{spread.first_quartile:.2f} to {spread.third_quartile:.2f}",
    )


def _ratio_row(num_ranks: int, base: int, seconds: Mapping[int, Mapping[int, float]]) -> tuple[str, ...]:
    found = estimate(paired_ratios(seconds[num_ranks], seconds[base]))
    assert found is not None
    return (f"{num_ranks} ranks / {base}", f"{found.median:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.n))


if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        sys.exit(f"hvdtrain: {error}")
