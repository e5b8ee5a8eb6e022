"""Kill runs in the middle of an epoch and go on with 2 -> 4 -> 1 -> 3 ranks: every example exactly once per epoch?

`python -m tests.harness.world_changes [--cases RUNS]`. Global batches of 12 and 24 examples, and of 10, which neither
3 nor 4 ranks can share evenly. What counts is what each rank's training steps were really given. The control is the
usual way, where each rank goes on in a shard of its own.
"""

import functools
import random
import tempfile
from pathlib import Path
from typing import Any

from hvdtrain.scaling import shard_bounds
from hvdtrain.train import checkpoint
from tests.harness import rows
from tests.harness.launches import Launches

WORLDS = (2, 4, 1, 3)
NUM_EXAMPLES = 60
BATCHES = (12, 24, 10)


def changing(global_batch: int, seed: int) -> dict[str, Any]:
    """Return what was missing and what came twice in a run through all worlds, and what its ledger says."""
    chance = random.Random(f"{global_batch} {seed}")
    steps = -(-NUM_EXAMPLES // global_batch)
    with tempfile.TemporaryDirectory() as folder:
        run = Launches(
            Path(folder),
            pause_s=0.3,
            training={"epochs": len(WORLDS), "global_batch_size": global_batch},
            data={"remainder": "pad"},
            optimizer={"lr_scaling": "linear", "warmup_epochs": 1, "schedule": "cosine"},
            checkpoint={"every_steps": 1},
            sync={"check_every_steps": 10},
        )
        for place, ranks in enumerate(WORLDS[:-1]):
            step = place * steps + chance.randint(1, steps - 2)  # one more is left in the epoch: the kill takes time
            run.start(ranks, functools.partial(_is_within, run, place * steps, step), chance)
        run.start(WORLDS[-1])
        epochs = [
            [number for step in range(epoch * steps, (epoch + 1) * steps) for number in run.seen().get(step, [])]
            for epoch in range(len(WORLDS))
        ]
        return {
            "resumed_at": run.resumed_at()[1:],
            **counted(epochs),
            "learning_rate": run.plan.learning_rate,
            "ledger": [entry.value for entry in run.plan.ledger if entry.name == "resumed"],
        }


def _is_within(run: Launches, epoch_begin: int, step: int) -> bool:
    """Tell whether a step has begun and one of its epoch is saved, which happens while training goes on."""
    return step in run.iterations() and any(
        checkpoint.step_of(place) > epoch_begin for place in checkpoint.checkpoints(run.run.checkpoints)
    )


def counted(epochs: list[list[int]]) -> dict[str, int]:
    """Return how many examples are missing in epochs, and how many come again."""
    return {
        "missing": sum(NUM_EXAMPLES - len(set(epoch)) for epoch in epochs),
        "twice": sum(len(epoch) - len(set(epoch)) for epoch in epochs),
    }


def shards_of_their_own(global_batch: int, done: int) -> dict[str, int]:
    """The control: 2 ranks, each in its shard, for some steps, then 4 ranks that pass over as many of theirs."""
    seen = []
    for size, steps in ((2, range(done)), (4, range(done, NUM_EXAMPLES // global_batch))):
        for rank in range(size):
            begin, end = shard_bounds(NUM_EXAMPLES, rank=rank, size=size)
            share = global_batch // size
            seen += [number for step in steps for number in range(begin, end)[step * share : (step + 1) * share]]
    return counted([seen])


def all_cases(number: int) -> list[dict[str, Any]]:
    return [{"global_batch": BATCHES[i % len(BATCHES)], "seed": i} for i in range(number)]


def main() -> None:
    found = rows.run_missing(rows.RESULTS / "world_changes.jsonl", all_cases(rows.options(20).cases), changing)
    good = [row for row in found if row["missing"] == row["twice"] == 0]
    print(f"{len(good)} of {len(found)} runs: none missing, none twice")
    print(f"control, shards of their own: {shards_of_their_own(12, 2)}")


if __name__ == "__main__":
    main()
