"""What staging reads, and how long it takes, against reading directly: `python -m hvdtrain.bench.staging`.

Nodes are played by ranks with a folder of their own as disk. One machine has no slow shared file system, so no gain in
time can be seen here: what is true here is how many bytes are asked of the source, and how fast copies are made.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvdtrain.bench.launch import execute_logged, tail
from hvdtrain.bench.machine import describe
from hvdtrain.bench.statistics import Estimate, estimate, rotated
from hvdtrain.bench.table import table
from hvdtrain.errors import HvdtrainError
from hvdtrain.facts import gather_facts

ARMS = ("directly", "staged")
RECORD_BYTES = 16 * 2**10
NUM_FILES = 8
HEAD = ("", "bytes asked of the source / data", "staging, s", "MB/s of staging", "an epoch of reading, s", "n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdtrain.bench.staging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, default=4, help="default 4")
    parser.add_argument("--nodes", type=int, default=2, help="default 2")
    parser.add_argument("--mb", type=int, default=256, help="of data (default 256)")
    parser.add_argument("--epochs", type=int, default=3, help="default 3")
    parser.add_argument("--rounds", type=int, default=5, help="launches of each arm (default 5)")
    options = parser.parse_args(arguments)
    if not 1 <= options.nodes <= options.ranks or min(options.mb, options.epochs, options.rounds) < 1:
        parser.error("nodes must be 1 to the number of ranks, and everything 1 at least")
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-") as name:
        num_bytes = write_records(Path(name), options.mb * 10**6)
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds):
            for arm in rotated(ARMS, number):
                found[arm].append(launch(Path(name), arm, options, num_bytes))
                print(f"round {number}, {arm}: {found[arm][-1]}", file=sys.stderr, flush=True)
    rows = [row(arm, outcomes) for arm, outcomes in found.items()]
    print(table(HEAD, rows, markdown=True))
    print(f"\n{describe(gather_facts())}.")
    print(
        f"{options.ranks} ranks on {options.nodes} nodes that are folders, {num_bytes / 1e6:.0f} MB in {NUM_FILES} "
        f"TFRecord files, {options.epochs} epochs; source and copies on one disk, in its cache. Medians (quartiles)."
    )


def write_records(folder: Path, num_bytes: int) -> int:
    """Write TFRecord files, whose checksums nobody here looks at, and return their bytes."""
    record = struct.pack("<QI", RECORD_BYTES, 0) + os.urandom(RECORD_BYTES) + bytes(4)
    per_file = max(1, num_bytes // len(record) // NUM_FILES)
    (folder / "shared").mkdir()
    for number in range(NUM_FILES):
        with open(folder / "shared" / f"part-{number}.tfrecord", "wb") as file:
            for _ in range(per_file):
                file.write(record)
    return per_file * NUM_FILES * len(record)


def launch(folder: Path, arm: str, options: argparse.Namespace, num_bytes: int) -> dict[str, float]:
    """Run one arm, and return what it came to.

    Raises:
        HvdtrainError: If it fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        for node in range(options.nodes):
            (place / f"node_{node}").mkdir()
        task = {"files": str(folder / "shared" / "*.tfrecord"), "is_staged": arm == "staged", "epochs": options.epochs}
        task |= {"num_nodes": options.nodes, "batch_size": 32}
        (place / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "hvdtrain", "run", "--ranks", str(options.ranks), "--"]
        command += [sys.executable, "-m", "hvdtrain.train.bench.stage_worker", name]
        code, _ = execute_logged(command, dict(os.environ), place / "log")
        results = [json.loads(path.read_text()) for path in sorted(place.glob("result_*.json"))]
        if code or len(results) != options.ranks:
            raise HvdtrainError(f"{arm}: ended with code {code}; its last words:\n{tail(place / 'log')}")
    return summed(results, arm, options.nodes, num_bytes)


def summed(results: Sequence[dict[str, Any]], arm: str, num_nodes: int, num_bytes: int) -> dict[str, float]:
    """Return what all ranks of a launch came to together; the slowest one's time counts.

    What is asked of the source while staging is all that is read then, but for each copy's being read once to check it.
    """
    key = "staging_bytes" if arm == "staged" else "epochs_bytes"
    asked = sum(result[key] for result in results) - (num_nodes * num_bytes if arm == "staged" else 0)
    epochs = [max(times) for times in zip(*(result["epochs_s"] for result in results), strict=True)]
    staging = max(result["staging_s"] for result in results)
    return {"asked": asked / num_bytes, "staging_s": staging, "epoch_s": sum(epochs) / len(epochs), "bytes": num_bytes}


def row(arm: str, outcomes: Sequence[dict[str, float]]) -> list[str]:
    """Return an arm's line of the table."""
    cells = [arm, shown([one["asked"] for one in outcomes])]
    if arm == "staged":
        cells.append(shown([one["staging_s"] for one in outcomes]))
        cells.append(shown([one["bytes"] / 1e6 / one["staging_s"] for one in outcomes], digits=0))
    else:
        cells += ["", ""]
    return [*cells, shown([one["epoch_s"] for one in outcomes]), str(len(outcomes))]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Return median and quartiles.

    >>> shown([1.0, 2.0, 3.0])
    '2.00 (1.50 to 2.50)'
    """
    found: Estimate | None = estimate(values)
    assert found is not None
    numbers = (found.median, found.first_quartile, found.third_quartile)
    return "{} ({} to {})".format(*(f"{number:.{digits}f}" for number in numbers))


if __name__ == "__main__":
    try:
        main()
    except HvdtrainError as error:
        sys.exit(f"hvdtrain: {error}")
