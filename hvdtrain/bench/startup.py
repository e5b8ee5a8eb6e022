"""From launch to the first optimizer step: `hvdtrain run` against two bare processes started together."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hvdtrain.bench.launch import Failure, execute_logged, tail
from hvdtrain.bench.machine import Usage
from hvdtrain.facts import Facts
from hvdtrain.launch.job import worker_environment
from hvdtrain.runner import rank_environment

NUM_EXAMPLES = 4096
Outcome = tuple[list[dict[str, Any]] | Failure, Usage]


def config_text(num_ranks: int, batch_size: int) -> str:
    """Return a configuration that trains the CNN for one step. JSON is YAML."""
    config = {
        "name": "startup",
        "model": {"source": "hvdtrain.workshop.models:cnn_two"},
        "data": {"source": "hvdtrain.workshop.data:synthetic", "args": {"num_examples": NUM_EXAMPLES}},
        "training": {"steps": 1, "batch_size_per_replica": batch_size, "steps_per_execution": 1},
        "optimizer": {"name": "adam", "learning_rate": 0.001},
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        "launch": {"num_ranks": num_ranks},
    }
    return json.dumps(config, indent=1)


def start_product(num_ranks: int, batch_size: int) -> Outcome:
    """Run `hvdtrain run` on the configuration; the run's own record says when the first step was done."""
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-") as directory:
        config = Path(directory, "startup.yaml")
        config.write_text(config_text(num_ranks, batch_size), encoding="utf-8")
        log = Path(directory, "log")
        command = [sys.executable, "-m", "hvdtrain", "run", str(config), "--runs", str(Path(directory, "runs"))]
        began = time.time()
        code, usage = execute_logged(command, dict(os.environ), log)
        times = [time_ for path in Path(directory).glob("runs/*/*/metrics.jsonl") for time_ in first_steps(path)]
        if code or not times:
            return Failure(code, tail(log)), usage
    return [{"model": "cnn", "first_step_s": times[0] - began}], usage


def first_steps(path: Path) -> list[float]:
    """Return the time of day of the run's first step, as its records say."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record["time"] for record in records if record["kind"] == "first_step"]


def start_bare(num_ranks: int, batch_size: int, facts: Facts) -> Outcome:
    """Start the bare processes together, with the product's thread settings; the slowest one counts."""
    cores_per_rank = max(1, (facts.num_cores or num_ranks) // num_ranks)
    settings = dict(setting.tokens[0].split("=", 1) for setting in worker_environment(1, cores_per_rank, 0.1))
    with tempfile.TemporaryDirectory(prefix="hvdtrain-bench-") as directory:
        log = Path(directory, "log")
        places = [Path(directory, f"first_step_{rank}") for rank in range(num_ranks)]
        text = (
            f'for place; do "$0" -m hvdtrain.train.bench.bare_start "$place" {NUM_EXAMPLES} {batch_size} & '
            'pids+=($!); done; code=0; for pid in "${pids[@]}"; do wait "$pid" || code=$?; done; exit $code'
        )
        began = time.time()
        environ = rank_environment(os.environ) | settings
        code, usage = execute_logged(["bash", "-c", text, sys.executable, *map(str, places)], environ, log)
        if code or not all(place.exists() for place in places):
            return Failure(code, tail(log)), usage
        ended = max(float(place.read_text()) for place in places)
    return [{"model": "cnn", "first_step_s": ended - began}], usage
