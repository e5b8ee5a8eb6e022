"""Kill real runs with SIGKILL at random times, resume them until they are finished: the same final state?

`python -m tests.harness.resume_kills [--cases KILLS]` for each of 1, 2 and 4 ranks. A case is one run with up to four
kills, of one rank or of everything at once; compared is SHA-256 over weights, statistics, slots and random states of
the last checkpoint and the logs of every epoch.
"""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.harness import rows
from tests.harness.launches import Launches

SIZES = (1, 2, 4)
MOST_KILLS = 4
FILE = rows.RESULTS / "resume_kills.jsonl"


def launches(folder: str, pause_s: float) -> Launches:
    return Launches(
        Path(folder),
        pause_s=pause_s,
        training={"epochs": 4, "global_batch_size": 4},
        checkpoint={"every_steps": 2},
        sync={"check_every_steps": 10},
    )


def whole(ranks: int) -> dict[str, Any]:
    """Return the final state of the run that nobody kills."""
    with tempfile.TemporaryDirectory() as folder:
        run = launches(folder, 0)
        run.start(ranks)
        return {"digest": run.digest()}


def killed(ranks: int, seed: int, most_kills: int = MOST_KILLS) -> dict[str, Any]:
    """Return how often a run was killed, where it went on, and its final state."""
    chance = random.Random(f"{ranks} {seed}")
    kills = 0
    with tempfile.TemporaryDirectory() as folder:
        run = launches(folder, 0.1)
        while not run.is_finished():
            kills += run.start(ranks, _after(run, chance.uniform(0, 2)) if kills < most_kills else None, chance)
        return {"kills": kills, "resumed_at": run.resumed_at()[1:], "digest": run.digest()}


def _after(run: Launches, delay_s: float) -> Any:
    """Return a question that is true a while after the first step of this attempt."""
    began: list[float] = []

    def is_time() -> bool:
        if not began and run.iterations():
            began.append(time.monotonic())
        return bool(began) and time.monotonic() - began[0] > delay_s

    return is_time


def main() -> None:
    wanted = rows.options(20).cases
    for ranks in SIZES:
        [expected] = [
            row["digest"]
            for row in rows.run_missing(FILE, [{"ranks": ranks}], whole)
            if row["case"] == {"ranks": ranks}
        ]
        seed, kills, equal, runs = 0, 0, 0, 0
        while kills < wanted:
            case = {"ranks": ranks, "seed": seed}
            [row] = [row for row in rows.run_missing(FILE, [case], killed) if row["case"] == case]
            seed, kills, runs, equal = seed + 1, kills + row["kills"], runs + 1, equal + (row["digest"] == expected)
        print(f"{ranks} ranks: {kills} kills in {runs} runs, {equal} of them ended as the run that nobody killed")


if __name__ == "__main__":
    main()
