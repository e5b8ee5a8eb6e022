"""What models of very many or very large variables cost on real ranks, beside plain Keras in one process.

    python -m tests.harness.big_models [--cases N]

Appends one line per finished case to results/big_models.jsonl and skips those that are there.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.ranks.worlds import run_module

RESULTS = Path(__file__).parent / "results" / "big_models.jsonl"
MODULE = "tests.harness.big_models"
PER_LAYER = 100


@dataclass(frozen=True)
class Case:
    """`num_variables` of 3 numbers each, and a dense layer of `megabytes`.

    With `little_memory` the ranks act as if /dev/shm were too small. One rank is plain Keras, without hvdtrain.
    """

    num_variables: int
    megabytes: int
    ranks: int
    little_memory: bool = False
    num_steps: int = 6


CASES = (
    Case(1_000, 0, 2),
    Case(1_000, 0, 1),
    Case(0, 200, 2),
    Case(2_500, 0, 2),
    Case(0, 200, 2, little_memory=True),
    Case(10_000, 0, 2),
    Case(0, 200, 1),
    Case(2_500, 0, 1),
    Case(10_000, 0, 1),
    Case(5_000, 0, 2),
)


def run(case: Case, folder: Path) -> dict[str, Any]:
    """Return what rank 0 measured, with the digests of all ranks."""
    log = run_module(folder, case.ranks, "auto", MODULE, "--worker", json.dumps(asdict(case)), str(folder))
    files = [folder / f"rank_{rank}.json" for rank in range(case.ranks)]
    assert all(file.exists() for file in files), log[-3000:]
    rows = [json.loads(file.read_text()) for file in files]
    return {**asdict(case), **rows[0], "in_sync": len({row["digest"] for row in rows}) == 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=len(CASES))
    parser.add_argument("--worker", nargs=2)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Case(**json.loads(arguments.worker[0])), Path(arguments.worker[1]))
        return
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = [{name: row[name] for name in asdict(CASES[0])} for row in map(json.loads, lines)]
    for case in CASES[: arguments.cases]:
        if asdict(case) not in done:
            with tempfile.TemporaryDirectory() as folder, open(RESULTS, "a") as results:
                print(row := json.dumps(run(case, Path(folder))), flush=True)
                results.write(row + "\n")


# -- one rank -----------------------------------------------------------------------------------


def build(case: Case) -> Any:
    import keras

    class Many(keras.layers.Layer):
        """Very many small weights."""

        def build(self, input_shape: Any) -> None:
            self.parts = [self.add_weight(shape=(3,), name=f"part_{i}") for i in range(PER_LAYER)]

        def call(self, inputs: Any) -> Any:
            for part in self.parts:
                inputs = inputs + part
            return inputs

    keras.utils.set_random_seed(0)
    side = int((case.megabytes * 2**20 / 4) ** 0.5)
    many = [Many() for _ in range(case.num_variables // PER_LAYER)]
    large = [keras.layers.Dense(side), keras.layers.Dense(side, use_bias=False)] if side else []
    return keras.Sequential([keras.layers.Input((3,)), *many, *large, keras.layers.Dense(1)])


def stamp(times: list[float]) -> Any:
    """Return a callback that notes the time when training begins and after each step."""
    import keras

    class Stamp(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            times.append(time.perf_counter())

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

    return Stamp()


def work(case: Case, folder: Path) -> None:
    from hvdtrain.train.world import wake_up

    world = wake_up(os.environ)
    import keras
    import numpy as np

    from hvdtrain.train.callbacks import Setup, SyncProof
    from hvdtrain.train.optimizer import distribute
    from hvdtrain.train.sync import prove_in_sync

    if case.little_memory and world.comm.node_mean:
        world.comm.node_mean._bytes_left = 2**20
    began = time.perf_counter()
    model = build(case)
    built = time.perf_counter()
    optimizer = keras.optimizers.SGD(1e-6, momentum=0.9)  # all the small weights are added up
    plain = world.size == 1
    model.compile(optimizer if plain else distribute(optimizer, world.comm), loss="mse", jit_compile=False)
    before: list[float] = []
    times: list[float] = []
    together = [] if plain else [stamp(before), Setup(world.comm), SyncProof(world.comm, None)]
    x = np.random.default_rng(world.rank).normal(size=(2 * case.num_steps, 3)).astype("float32")
    model.fit(x, x[:, :1], batch_size=2, epochs=1, verbose=0, callbacks=[*together[:2], stamp(times), *together[2:]])
    trained = time.perf_counter()
    digest = "" if plain else prove_in_sync(model, world.comm, step=case.num_steps)
    proved = time.perf_counter()
    steps = [late - early for early, late in pairwise(times)]
    row = {
        "build_s": built - began,
        "setup_s": times[0] - before[0] if before else 0.0,
        "first_step_s": steps[0],
        # The second step has the proof after the first one in it.
        "step_s": float(np.median(steps[2:])),
        "proof_s": 0.0 if plain else proved - trained,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "variables": len(model.variables) + len(model.optimizer.variables),
        "shared_segments": len(world.comm.node_mean._segments) if world.size > 1 and world.comm.node_mean else 0,
    }
    row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    (folder / f"rank_{world.rank}.json").write_text(json.dumps({**row, "digest": digest}))
    world.comm.gather_json("done", name="done")
    world.comm.shutdown()


if __name__ == "__main__":
    main()
