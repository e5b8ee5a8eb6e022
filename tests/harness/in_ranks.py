"""Long harnesses on real ranks: many numbered cases per launch, one JSON line for each finished case.

A harness that was interrupted goes on with the cases that have no line yet.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.ranks.worlds import PROJECT, rank_command

RESULTS = Path(__file__).with_name("results")
CASES_PER_LAUNCH = 50
Case = Callable[..., dict]


def rows_of(file: Path) -> list[dict]:
    """Return the finished cases; a line that was cut off by an interruption does not count."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def main(module: str, *, num_cases: int, size: int, reduction: str, run: Callable[..., None]) -> None:
    """Be the harness's command line, or one of its ranks.

    Args:
        module: The harness, as `python -m` takes it.
        num_cases: How many there are.
        size: Ranks.
        reduction: How gradients travel.
        run: Called on every rank with (comm, case numbers, add) where add takes a finished row.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=num_cases)
    parser.add_argument("--numbers", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    file = RESULTS / f"{module.rpartition('.')[2]}.jsonl"
    if arguments.numbers:
        _be_rank(file, json.loads(arguments.numbers), run)
        return
    while True:
        done = {row["case"] for row in rows_of(file)}
        missing = [number for number in range(arguments.cases) if number not in done][:CASES_PER_LAUNCH]
        if not missing:
            break
        command, environ = rank_command(size, reduction, module, "--numbers", json.dumps(missing))
        subprocess.run(command, env=environ, cwd=PROJECT, timeout=1800, check=True)
    rows = [row for row in rows_of(file) if row["case"] < arguments.cases]
    wrong = [row for row in rows if not row["ok"]]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
    print(f"{len(rows)} cases: {counts}; wrong: {len(wrong)}")
    for row in wrong:
        print(json.dumps(row))
    sys.exit(bool(wrong))


def _be_rank(file: Path, numbers: list[int], run: Callable[..., None]) -> None:
    from hvdtrain.train.world import wake_up

    world = wake_up(os.environ)

    def add(row: dict) -> None:
        if world.rank == 0:
            with open(file, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    run(world.comm, numbers, add)
    world.comm.shutdown()
