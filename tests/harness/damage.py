"""Damage a checkpoint that has an older valid one beside it: `python -m tests.harness.damage`.

2,000 cases, one bit flipped or one file cut short at a random place, over all files: each is detected, the older one
is used, and the complaint names the damaged one. 1,000 more in which the manifest was made to fit the damage: nothing
but CorruptError comes out of the loader.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.errors import CorruptError
from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import Checkpoint
from tests.harness import resumable

NUM_CASES = 3000
EVERY_RESIGNED = 3  # each third case has a manifest that fits
FILES = ("arrays.npz", "state.json", "manifest.json")
OLDER, NEWER = 7, 8


def make(step: int) -> Checkpoint:
    """Return a checkpoint with arrays of several types and shapes."""
    numbers = np.random.default_rng(step)
    arrays = {
        "model/00000/kernel": numbers.random((31, 8)).astype("float32"),
        "model/00001/half": numbers.random(16).astype("float16"),
        "model/00002/none": np.zeros((0, 3)),
        "seed/00000/state": np.array([step, 9], "uint32"),
        "optimizer/00000/iteration": np.array(step, "int64"),
        "optimizer/00001/flags": np.array([True, False]),
    }
    return Checkpoint(step, {"epochs_done": step, "steps_done": 0, "world_size": 4}, arrays)


def damage(random_: random.Random, data: bytes) -> tuple[bytes, str]:
    """Return the bytes with one bit flipped or the end cut off, and what was done."""
    if random_.random() < 0.5:
        size = random_.randrange(len(data))
        return data[:size], f"cut {size}"
    bit = random_.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed), f"flip {bit}"


class Bench:
    """A directory with an older and a newer checkpoint, damaged and repaired again and again."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hvdtrain-damage-"))
        checkpoint.save(self.root, make(OLDER), keep=2)
        self.newer = checkpoint.save(self.root, make(NEWER), keep=2)
        self.whole = {name: (self.newer / name).read_bytes() for name in FILES}

    def one_case(self, case: int) -> dict[str, Any]:
        """Damage one file, look, repair. Raises AssertionError where a promise is broken."""
        random_ = random.Random(case)
        is_resigned = case % EVERY_RESIGNED == 0
        name = random_.choice(FILES[:2] if is_resigned else FILES)
        data, what = damage(random_, self.whole[name])
        (self.newer / name).write_bytes(data)
        try:
            outcome = self.look_resigned() if is_resigned else self.look()
        finally:
            for file, content in self.whole.items():
                (self.newer / file).write_bytes(content)
        return {"file": name, "what": what, "outcome": outcome}

    def look(self) -> str:
        """The damage is found, and the older checkpoint used."""
        found, complaints = checkpoint.load_newest(self.root)
        assert found is not None
        assert found.step == OLDER
        assert len(complaints) == 1
        assert str(self.newer) in complaints[0]
        return "older used"

    def look_resigned(self) -> str:
        """A manifest that fits hides the damage itself, but nothing unexplained may come of it."""
        files = {name: (self.newer / name).read_bytes() for name in FILES[:2]}
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        (self.newer / "manifest.json").write_text(json.dumps(manifest, indent=1))
        try:
            checkpoint.load(self.newer)
        except CorruptError as error:
            words = str(error)
        else:
            return "read"
        assert str(self.newer) in words
        return "explained"

    def close(self) -> None:
        shutil.rmtree(self.root)


def main() -> None:
    bench = Bench()
    rows = resumable.run("damage", resumable.num_cases_wanted(__doc__, NUM_CASES), bench.one_case)
    bench.close()
    outcomes = [row["outcome"] for row in rows]
    print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})


if __name__ == "__main__":
    main()
