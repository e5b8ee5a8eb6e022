"""PyTorch's MNIST example beside the same network in Keras: `python -m hvdtrain.bench.beside_torch`.

The same layers, initial distributions, optimizer (Adadelta, rate 1.0, times 0.7 after each epoch), batch of 64, epochs
and cores; time and accuracy side by side. Arms take turns, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hvdtrain.bench.launch import execute_logged, tail
from hvdtrain.bench.machine import describe
from hvdtrain.bench.options import numbers
from hvdtrain.bench.statistics import estimate, paired_ratios, rotated
from hvdtrain.bench.table import table
from hvdtrain.errors import HvdtrainError
from hvdtrain.facts import gather_facts
from hvdtrain.runner import rank_environment

BATCH_SIZE, GAMMA = 64, 0.7
TORCH = "PyTorch"
HEAD = ("", "test accuracy, %", "train and test, s", "with start-up, s", "CPU time, s", "n")
MEASURES = ("seconds", "all_seconds", "cpu_s")
RATIO_HEAD = ("PyTorch / hvdtrain", "train and test", "with start-up", "CPU time", "n")


@dataclass(frozen=True)
class Outcome:
    """What one launch came to.

    Args:
        accuracy: On the test images, after the last epoch.
        seconds: From data in memory to the end of the last test.
        all_seconds: From the launch to its end.
        cpu_s: CPU time of all its processes, from the launch to its end.
    """

    accuracy: float
    seconds: float
    all_seconds: float
    cpu_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    arms = [TORCH, *(keras_name(ranks) for ranks in options.ranks)]
    print(tables(measure(arms, options.seeds, lambda arm, seed: launch(arm, seed, options))))
    print(f"\n{describe(gather_facts())}.")
    print(
        f"{options.epochs} epoch{'s' if options.epochs > 1 else ''} of 60,000 images, batch {BATCH_SIZE} in all. "
        "Accuracy: mean +- standard error; seconds: median and range; ratios: median and 95 % interval."
    )


def measure(
    arms: Sequence[str], num_seeds: int, outcome_of: Callable[[str, int], Outcome]
) -> dict[str, dict[int, Outcome]]:
    """Run all arms with all seeds, or with those that ended before Ctrl-C; return what each came to, by arm and seed.

    Raises:
        KeyboardInterrupt: If fewer than two seeds had ended.
    """
    found: dict[str, dict[int, Outcome]] = {arm: {} for arm in arms}
    try:
        for seed in range(num_seeds):
            for arm in rotated(arms, seed):
                found[arm][seed] = outcome_of(arm, seed)
                print(f"seed {seed}, {arm}: {found[arm][seed]}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        whole = min(len(outcomes) for outcomes in found.values())
        if whole < 2:
            raise
        print("stopped; these are the seeds that ended", file=sys.stderr)
        return {arm: {seed: outcomes[seed] for seed in range(whole)} for arm, outcomes in found.items()}
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdtrain.bench.beside_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=1, help="default 1; the example's own default is 14")
    parser.add_argument("--seeds", type=int, default=5, help="launches of each arm (default 5)")
    parser.add_argument("--cores", type=int, help="that all arms may use (default: all)")
    parser.add_argument("--ranks", type=numbers, default=(1, 2), help="of the arms in Keras (default 1,2)")
    options = parser.parse_args(arguments)
    cores = len(os.sched_getaffinity(0))
    if options.cores is not None and not 1 <= options.cores <= cores:
        parser.error(f"--cores must be 1 to {cores}")
    if options.epochs < 1 or options.seeds < 2:
        parser.error("--epochs must be 1 at least, --seeds 2 at least")
    if any(BATCH_SIZE % ranks for ranks in options.ranks):
        parser.error(f"--ranks: the batch of {BATCH_SIZE} must divide by them")
    if find_spec("torch") is None:
        parser.error("PyTorch is not installed here: pip install 'hvdtrain[bench]'")
    return options


def keras_name(ranks: int) -> str:
    """Return the name of an arm in Keras."""
    return f"hvdtrain, {ranks} rank{'s' if ranks > 1 else ''}"


def launch(arm: str, seed: int, options: argparse.Namespace) -> Outcome:
    """Run one arm with one seed.

    Raises:
        HvdtrainError: If it fails, with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-") as name:
        folder = Path(name)
        if arm == TORCH:
            command = ["-m", "hvdtrain.train.bench.torch_mnist", str(seed), str(options.epochs), str(folder / "result")]
        else:
            ranks = next(ranks for ranks in options.ranks if keras_name(ranks) == arm)
            config = folder / "config.yaml"
            config.write_text(json.dumps(configuration(ranks, seed, options.epochs)), encoding="utf-8")  # JSON is YAML
            command = ["-m", "hvdtrain", "run", str(config), "--runs", str(folder / "runs")]
        began, used = time.monotonic(), os.times()
        code, _ = execute_logged([sys.executable, *command], rank_environment(os.environ), folder / "log")
        seconds, now = time.monotonic() - began, os.times()
        cpu_s = now.children_user + now.children_system - used.children_user - used.children_system
        if code:
            raise HvdtrainError(
                f"{arm}, seed {seed}: ended with code {code}; the end of its log:\n{tail(folder / 'log')}"
            )
        accuracy, training_s = of_torch(folder) if arm == TORCH else of_run(folder)
    return Outcome(accuracy, training_s, seconds, cpu_s)


def configuration(ranks: int, seed: int, epochs: int) -> dict[str, object]:
    """Return what hvdtrain trains: the example, with its batch shared by the ranks."""
    step = {"schedule": "step", "schedule_args": {"boundaries_epochs": list(range(1, epochs)), "factor": GAMMA}}
    return {
        "name": "torch_example",
        "model": {"source": "hvdtrain.workshop.models:torch_example"},
        "data": {"source": "hvdtrain.workshop.data:mnist", "remainder": "pad"},
        "training": {"epochs": epochs, "global_batch_size": BATCH_SIZE, "seed": seed},
        # PyTorch's defaults for Adadelta; Keras has others.
        "optimizer": {"name": "adadelta", "learning_rate": 1.0, "args": {"rho": 0.9, "epsilon": 1e-6}}
        | (step if epochs > 1 else {}),
        "launch": {"num_ranks": ranks},
    }


def of_torch(folder: Path) -> tuple[float, float]:
    """Return accuracy and seconds of PyTorch."""
    found = json.loads((folder / "result").read_text(encoding="utf-8"))
    return found["accuracy"], found["seconds"]


def of_run(folder: Path) -> tuple[float, float]:
    """Return accuracy and seconds of a run, from its records: from the start, data loaded, to the end."""
    (place,) = folder.glob("runs/*/*/metrics.jsonl")
    records = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    times = {record["kind"]: record["time"] for record in records}
    summary = json.loads(place.with_name("summary.json").read_text(encoding="utf-8"))
    return summary["metrics"]["val_accuracy"], times["end"] - times["start"]


def tables(found: Mapping[str, Mapping[int, Outcome]]) -> str:
    """Return both tables, as Markdown."""
    rows = []
    for arm, outcomes in found.items():
        accuracies = [100 * one.accuracy for one in outcomes.values()]
        error = statistics.stdev(accuracies) / len(accuracies) ** 0.5
        times = [spread([getattr(one, name) for one in outcomes.values()]) for name in MEASURES]
        rows.append([arm, f"{statistics.mean(accuracies):.2f} +- {error:.2f}", *times, str(len(outcomes))])
    ratios = [ratio_row(arm, found) for arm in found if arm != TORCH]
    return table(HEAD, rows, markdown=True) + "\n\n" + table(RATIO_HEAD, ratios, markdown=True)


def ratio_row(arm: str, found: Mapping[str, Mapping[int, Outcome]]) -> list[str]:
    """Return how many times as long PyTorch took, seed by seed."""
    row = [arm]
    for name in MEASURES:
        theirs, ours = ({seed: getattr(one, name) for seed, one in found[key].items()} for key in (TORCH, arm))
        ratio = estimate(paired_ratios(theirs, ours))
        assert ratio is not None
        row.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    return [*row, str(len(found[arm]))]


def spread(values: Sequence[float]) -> str:
    """Return the median, and the least and the greatest.

    >>> spread([3.0, 1.0, 2.0])
    '2.0 (1.0 to 3.0)'
    """
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        sys.exit(f"hvdtrain: {error}")
    except KeyboardInterrupt:
        print("hvdtrain: stopped before two seeds had ended, so there is no table", file=sys.stderr)
        sys.exit(130)
