"""What hvdtrain costs and gains: `python -m hvdtrain.bench.overhead [--startup | --memory]`.

Throughput of Keras fit with hvdtrain against a hand-written Horovod loop, against the same processes without
communication, against Horovod with no settings, and against one process on all cores. Each round launches all arms,
which then take turns of a second or two; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from hvdtrain.bench import report, startup
from hvdtrain.bench.arms import AGAIN, ARMS, CURVES, KERAS_UPDATE, SAVING, UNCHECKED, USUAL, Arm, reading, variant
from hvdtrain.bench.machine import describe
from hvdtrain.bench.rounds import Launch, Ledger, run_rounds, run_turns
from hvdtrain.bench.table import MEMORY_TARGET, STARTUP_TARGET
from hvdtrain.bench.task import INPUTS, MODELS, NUM_EXAMPLES, Task, steps_per_epoch
from hvdtrain.errors import ExitCode, HvdtrainError
from hvdtrain.facts import Facts, gather_facts

WRITER = "hvdtrain.train.bench.inputs"


def main() -> None:
    """Run the benchmark and print its tables; exit code 1 if a launch failed."""
    options = parse(sys.argv[1:])
    try:
        sys.exit(run(options))
    except HvdtrainError as error:
        print(f"overhead: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m hvdtrain.bench.overhead", description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--startup", action="store_true", help="time from launch to the first optimizer step instead")
    mode.add_argument("--memory", action="store_true", help="peak memory per rank instead, one model per launch")
    parser.add_argument("--rounds", type=positive, default=7, help="how often each arm is launched (default 7)")
    parser.add_argument("--models", type=names_of(MODELS), default=MODELS, help=f"default {','.join(MODELS)}")
    parser.add_argument("--arms", type=names_of(tuple(ARMS)), default=USUAL, help=f"of {','.join(ARMS)}")
    parser.add_argument("--checks", action="store_true", help="one more arm: the product without its checks")
    parser.add_argument("--curves", action="store_true", help="one more arm: the product with TensorBoard's curves")
    parser.add_argument("--keras-update", action="store_true", help="one more arm: the product with Keras's own Adam")
    parser.add_argument("--aa", action="store_true", help="launch the first arm twice a round: the noise floor")
    parser.add_argument(
        "--inputs",
        type=names_of(tuple(INPUTS)),
        default=(),
        help=f"one more arm for each way to read the data, of {','.join(INPUTS)}",
    )
    parser.add_argument(
        "--vary", action="append", default=[], metavar="NAME=VALUE", help="one more arm: hvdtrain with this changed"
    )
    parser.add_argument(
        "--save-every", type=positive, metavar="STEPS", help="one more arm: the product saving every STEPS steps"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="wanted length of a turn (default 1.5)")
    parser.add_argument("--turns", type=positive, default=11, help="of each arm and model in a round (default 11)")
    parser.add_argument("--batch-size", type=positive, default=128, help="examples per rank and step (default 128)")
    parser.add_argument("--steps-per-execution", type=positive, default=20, help="on every arm (default 20)")
    parser.add_argument("--ranks", type=positive, default=2, help="default 2")
    parser.add_argument("--out", type=Path, help="append every raw row to this JSON Lines file")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--drop-disturbed", action="store_true", help="leave launches out that others disturbed")
    options = parser.parse_args(arguments)
    check_sizes(parser, options)
    if any(ARMS[name].kind == "torch" for name in options.arms) and find_spec("torch") is None:
        parser.error("PyTorch is not installed here: pip install 'hvdtrain[bench]', or leave its arms out")
    return options


def check_sizes(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message if the data cannot fill one execution."""
    try:
        steps_per_epoch(
            batch_size=options.batch_size,
            num_ranks=options.ranks,
            steps_per_execution=options.steps_per_execution,
            steps_per_save=options.save_every,
        )
    except ValueError as error:
        parser.error(str(error))


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def names_of(known: tuple[str, ...]) -> type[str]:
    """Return a converter from names with commas between them to a tuple of known names."""

    def convert(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r} among {', '.join(known)}")
        return names

    return convert  # type: ignore[return-value]


def run(options: argparse.Namespace) -> int:
    """Run the chosen mode and print its outcome; return the exit code."""
    facts = gather_facts()
    ledger = Ledger(options.out)
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-files-") as folder:
        if options.inputs:
            print("writing pictures", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", WRITER, folder], stderr=subprocess.DEVNULL, check=True)
        options.files = folder
        is_whole = measure(options, facts, ledger)
    rows = report.undisturbed(ledger.rows) if options.drop_disturbed else ledger.rows
    print(tables(options, rows, [arm.name for arm in throughput_arms(options)]))
    print()
    print(describe(facts) + ".")
    print(conditions(options))
    print(report.circumstances(ledger.rows) + ("; those are left out above." if options.drop_disturbed else "."))
    failures = report.failures_text(ledger.rows)
    if failures:
        print("\n" + failures)
    if not is_whole:
        return int(ExitCode.INTERRUPTED)
    return 1 if failures else 0


def conditions(options: argparse.Namespace) -> str:
    """Return what was the same for all arms."""
    text = f"{options.ranks} ranks, batch {options.batch_size} per rank"
    if options.startup:
        return f"{text}, {startup.NUM_EXAMPLES} synthetic examples of 28 x 28 x 1; imports and tracing included."
    if options.memory:
        text += ", the most memory a rank holds while it trains, libraries and data (180 MB) included"
    if options.save_every:
        text += f", a checkpoint every {options.save_every} steps on the saving arm"
    return (
        f"{text}, {options.steps_per_execution} steps per execution, Adam, {NUM_EXAMPLES} synthetic float32 examples "
        f"of 28 x 28 x 1 in memory; a first epoch left out, then {num_turns(options)} turns of about "
        f"{options.seconds:g} s, together whole epochs; all ranks' examples over the slowest rank's time in each turn."
    )


def throughput_arms(options: argparse.Namespace) -> list[Arm]:
    """Return the arms of the throughput mode, in the order of the table."""
    return [
        *(ARMS[name] for name in options.arms),
        *([UNCHECKED] if options.checks else []),
        *([CURVES] if options.curves else []),
        *([SAVING] if options.save_every else []),
        *([KERAS_UPDATE] if options.keras_update else []),
        *([AGAIN] if options.aa else []),
        *(variant(change) for change in options.vary),
        *(reading(data) for data in options.inputs),
    ]


def measure(options: argparse.Namespace, facts: Facts, ledger: Ledger) -> bool:
    """Run the rounds of the chosen mode; return whether the user let them finish."""
    if options.startup:
        size = (options.ranks, options.batch_size)
        launches: dict[str, tuple[str, Launch]] = {
            "hvdtrain run": ("hvdtrain run", partial(startup.start_product, *size)),
            "bare processes": ("bare processes", partial(startup.start_bare, *size, facts)),
        }
        return run_rounds(options.rounds, launches, ledger)
    if options.memory:  # a model's peak would hide behind that of the one before it
        arms, sets = [ARMS["hvdtrain"], ARMS["hand-written"]], [(model,) for model in options.models]
    else:
        arms, sets = throughput_arms(options), [options.models]
    return all(
        run_turns(options.rounds, [(arm, task_of(arm, models, options)) for arm in arms], facts, options.ranks, ledger)
        for models in sets
    )


def num_turns(options: argparse.Namespace) -> int:
    """Return how many turns each arm has with each model; memory does not depend on them."""
    return 1 if options.memory else int(options.turns)


def task_of(arm: Arm, models: tuple[str, ...], options: argparse.Namespace) -> Task:
    """Return what an arm's workers do, but for the directory."""
    return Task(
        kind=arm.kind,
        models=models,
        seconds=options.seconds,
        batch_size=options.batch_size * (options.ranks if arm.has_global_batch else 1),
        steps_per_execution=options.steps_per_execution,
        num_ranks=1 if arm.launch == "alone" else options.ranks,
        directory="",
        num_turns=num_turns(options),
        steps_per_save=options.save_every,
        num_devices=options.ranks if arm.kind == "mirrored" else 1,
        data=arm.data,
        files=options.files,
    )


def tables(options: argparse.Namespace, rows: report.Rows, arms: Sequence[str]) -> str:
    """Return the tables of the chosen mode."""
    if options.startup:
        return report.cost_table(
            rows, ours="hvdtrain run", theirs="bare processes", models=("cnn",), key="first_step_s",
            unit="s to the first step", target=STARTUP_TARGET, markdown=options.markdown,
        )  # fmt: skip
    if options.memory:
        most = [{**row, "peak_mb": max(row["peak_rss_mb"])} if "peak_rss_mb" in row else row for row in rows]
        return report.cost_table(
            most, ours="hvdtrain", theirs="hand-written", models=options.models, key="peak_mb",
            unit="peak MB per rank", target=MEMORY_TARGET, markdown=options.markdown,
        )  # fmt: skip
    return report.throughput_tables(rows, arms, options.models, markdown=options.markdown)


if __name__ == "__main__":
    main()
