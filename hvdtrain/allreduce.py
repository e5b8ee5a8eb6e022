"""Measuring allreduce on the ranks of this machine, or of the allocation this runs in."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.bench.launch import execute_logged, tail
from hvdtrain.bench.table import table
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.facts import gather_facts, search_path
from hvdtrain.launch.job import command_script
from hvdtrain.launch.shell import script_text
from hvdtrain.report import model_of, model_words
from hvdtrain.sizes import size_text
from hvdtrain.study.cost_model import relative_errors
from hvdtrain.study.plots import bandwidths

WORKER = "hvdtrain.train.bench.allreduce"
UNSTEADY = 1.5  # slowest trial over fastest
MANY = 0.2  # of all rows
HEAD = ("way", "size", "bytes", "us", "fastest", "slowest", "algbw GB/s", "busbw GB/s", "result", "fit us", "off")


def measure_allreduce(num_ranks: int, sizes: Sequence[int], *, seconds: float, num_trials: int = 5) -> dict[str, Any]:
    """Return what the ranks found: see `hvdtrain.train.bench.allreduce.sweep`.

    Raises:
        EnvironmentNotFitError: If ranks cannot be started here, or failed; with the end of what they printed.
        KeyboardInterrupt: If a signal stopped them.
    """
    facts = gather_facts()
    if facts.mpi is None:
        raise EnvironmentNotFitError(f"several ranks need Open MPI 4 or 5, found: {facts.mpi_found}")
    with tempfile.TemporaryDirectory(prefix="hvdtrain-allreduce-") as folder:
        task = Path(folder, "task.json")
        asked = {"num_ranks": num_ranks, "sizes": list(sizes), "seconds": seconds, "num_trials": num_trials}
        task.write_text(json.dumps({**asked, "directory": folder}))
        script = command_script(
            [sys.executable, "-m", WORKER, str(task)],
            num_ranks=num_ranks,
            num_cores=facts.num_cores or num_ranks,
            launcher=facts.mpi,
        )
        log = Path(folder, "log")
        command = ["bash", "-c", script_text(script), "hvdtrain"]
        code, _ = execute_logged(command, {**os.environ, "PATH": search_path()}, log)
        found = Path(folder, "allreduce.json")
        if code or not found.exists():
            raise EnvironmentNotFitError(
                f"the ranks ended with exit code {code}; the end of what they said:\n{tail(log)}"
            )
        result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return result


def sweep_text(found: Mapping[str, Any]) -> str:
    """Return a sweep as a table, and the fitted model of each way in words."""
    ways = list(dict.fromkeys(row["way"] for row in found["rows"]))
    models = {way: model_of(found, way) for way in ways}
    rows = bandwidths([{"num_ranks": found["num_ranks"], **row} for row in found["rows"]])
    cells = []
    for row in rows:
        model = models[row["way"]]
        fitted = model.seconds(row["bytes"]) if model else None
        cells.append(
            (
                row["way"],
                size_text(row["bytes"]),
                str(row["bytes"]),
                *(f"{1e6 * row[name]:,.1f}" for name in ("seconds", "fastest_trial_s", "slowest_trial_s")),
                f"{row['algbw_gb_s']:.3f}",
                f"{row['busbw_gb_s']:.3f}",
                "right" if row["is_right"] else "WRONG",
                f"{1e6 * fitted:,.1f}" if fitted is not None else "",
                f"{fitted / row['seconds'] - 1:+.0%}" if fitted is not None else "",
            )
        )
    lines = [table(HEAD, cells, markdown=False), ""]
    for way, model in models.items():
        if model is not None:
            mine = [row for row in found["rows"] if row["way"] == way]
            errors = relative_errors(model, [row["bytes"] for row in mine], [row["seconds"] for row in mine])
            lines.append(f"{way}: {model_words(model)} Off by {max(errors):.0%} at most.")
    unsteady = [row for row in rows if row["slowest_trial_s"] > UNSTEADY * row["fastest_trial_s"]]
    if len(unsteady) > MANY * len(rows):
        lines.append(
            f"warning: {len(unsteady)} of {len(rows)} times differ by more than {UNSTEADY - 1:.0%} between trials: the "
            "machine was busy, and the fits describe that as well; measure again when it is quiet"
        )
    lines.append(f"Gradients here travel by: {found['reduction']}.")
    return "\n".join(lines)
