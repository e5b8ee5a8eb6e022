"""Long harnesses: one JSON line per finished case, appended at once; a restart goes on where the last one stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def run(name: str, num_cases: int, one_case: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the cases that no line is there for, and return all rows."""
    path = RESULTS / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = {row["case"] for row in rows}
    for case in range(num_cases):
        if case in finished:
            continue
        row = {"case": case, **one_case(case)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        rows.append(row)
        if case % 50 == 49:
            print(f"{name}: {case + 1}/{num_cases}", file=sys.stderr, flush=True)
    return rows


def num_cases_wanted(description: str, default: int) -> int:
    """Return `--cases` of the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cases", type=int, default=default, help=f"default {default}")
    return parser.parse_args().cases
