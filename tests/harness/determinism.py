"""`training.deterministic: true`: launches at 4 ranks give one digest. `python -m tests.harness.determinism`.

A case is one real launch of `hvdtrain run`. Even ones average through shared memory, odd ones through Horovod; the last
ones are controls with other seeds, which must give other digests.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hvdtrain.facts import search_path
from hvdtrain.rundir import find_runs
from tests.harness.in_ranks import RESULTS, rows_of
from tests.ranks.worlds import PROJECT

NUM_CASES = 40 + 4
NUM_CONTROLS = 4
REDUCTIONS = ("shared_memory", "horovod")
CONFIG: dict[str, Any] = {
    "name": "twice",
    "model": {"source": "my_model:build"},
    "data": {"source": "hvdtrain.workshop.data:digits"},
    "training": {"epochs": 2, "global_batch_size": 64, "deterministic": True},
    "optimizer": {"name": "adam", "learning_rate": 0.003},
    "launch": {"num_ranks": 4},
}
MODEL = """
import keras
from keras import layers


def build():
    return keras.Sequential([
        layers.Input((8, 8, 1)),
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.Activation("relu"),
        layers.Dropout(0.3),
        layers.Flatten(),
        layers.Dense(32, activation="tanh"),
        layers.Dropout(0.3),
        layers.Dense(10, activation="softmax"),
    ])
"""


def launch(number: int, num_cases: int = NUM_CASES) -> dict[str, Any]:
    """Train once, in a directory of its own, and return the digest of all weights, statistics and slots."""
    is_control = number >= num_cases - NUM_CONTROLS
    seed, reduction = (number + 1 if is_control else 0), REDUCTIONS[number % 2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {**CONFIG, "horovod": {"reduction": reduction}}
        config["training"] = {**CONFIG["training"], "seed": seed}
        (folder / "twice.yaml").write_text(json.dumps(config))
        (folder / "my_model.py").write_text(MODEL)
        settings = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        environ = {**os.environ, **settings, "PATH": search_path(), "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-m", "hvdtrain", "run", "twice.yaml"]
        code = subprocess.run(command, cwd=folder, env=environ, timeout=600, stdout=subprocess.DEVNULL).returncode
        logs = "\n".join(file.read_text(errors="replace") for file in folder.glob("runs/*/*/logs/*"))
        assert code == 0, f"exit code {code}; its logs:\n{logs}"  # the folder goes, and with it what mpirun said
        (run,) = find_runs(folder / "runs")
        summary = json.loads(run.summary.read_text())
        used = json.loads(run.environment.read_text())["reduction"]
    digest, loss = summary["digest"], summary["metrics"]["loss"].hex()
    return {"case": number, "seed": seed, "reduction": used, "digest": digest, "loss": loss, "step": summary["step"]}


def outcomes(rows: list[dict[str, Any]]) -> dict[tuple[str, int], set[tuple[str, str]]]:
    """Return the different (digest, loss) of each way of averaging and each seed."""
    found: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault((row["reduction"], row["seed"]), set()).add((row["digest"], row["loss"]))
    return found


def main() -> None:
    """Run the cases that are missing, and say whether each way has one digest and each seed its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=NUM_CASES)
    arguments = parser.parse_args()
    file = RESULTS / "determinism.jsonl"
    done = {row["case"] for row in rows_of(file)}
    for number in range(arguments.cases):
        if number not in done:
            row = launch(number)
            with open(file, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    found = outcomes(rows_of(file))
    for (reduction, seed), values in sorted(found.items()):
        print(f"{reduction}, seed {seed}: {len(values)} different outcome{'s' if len(values) > 1 else ''}")
    is_right = all(len(values) == 1 for values in found.values())
    sys.exit(not (is_right and len(set.union(*found.values())) >= len({seed for _, seed in found})))


if __name__ == "__main__":
    main()
