"""Results of a long harness: one JSON line per finished case, appended, so that a restart goes on where it ended."""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_deadline = [math.inf]


def finished(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run_missing(file: Path, cases: list[dict[str, Any]], run: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the cases that have no line yet, each with its values as arguments, and return all lines.

    Raises:
        SystemExit: If the time that was given is over; started again, the harness goes on.
    """
    done = {json.dumps(row["case"], sort_keys=True) for row in finished(file)}
    for case in cases:
        if json.dumps(case, sort_keys=True) in done:
            continue
        if time.monotonic() > _deadline[0]:
            raise SystemExit("the time is over; start again to go on")
        began = time.monotonic()
        row = {"case": case, **run(**case), "seconds": round(time.monotonic() - began, 1)}
        file.parent.mkdir(exist_ok=True)
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    return finished(file)


def options(cases: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no further case after these")
    found = parser.parse_args()
    _deadline[0] = time.monotonic() + 60 * found.minutes
    return found
