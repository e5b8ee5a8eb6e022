"""The process that is killed: a row of saves with a kill armed. Starts as `python -m tests.harness.saves ...`.

Says `begin N` and `done N` around each save on standard output, which the kill leaves alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np

from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import Checkpoint

HEAVY = ("tensorflow", "keras", "horovod", "mpi4py")
# Steps after the first: the same one again (it is replaced), and enough of them that older ones are pruned.
STEPS_ON = (0, 2, 2, 5, 6, 6)
KEEP = 2
# Layouts of arrays: one small write, several writes of a piece each, many small arrays.
LAYOUTS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((3, 2), (), (0, 4)),
    ((700, 600), (5,)),
    tuple((number % 7 + 1, 30) for number in range(40)),
)


def make(first: int, number: int, layout: int) -> Checkpoint:
    """Return the checkpoint that save `number` of a row writes; every one differs from every other."""
    random = np.random.default_rng([first, number, layout])
    arrays = {f"model/{place:05d}/w": random.random(shape) for place, shape in enumerate(LAYOUTS[layout])}
    step = first + STEPS_ON[number]
    return Checkpoint(step, {"epochs_done": step, "steps_done": 0, "save": f"{first}:{number}"}, arrays)


def main() -> None:
    root, first, layout, at, how = Path(sys.argv[1]), *map(int, sys.argv[2:])
    loaded = [name for name in HEAVY if name in sys.modules]
    assert not loaded, f"the writer needs {loaded}"
    shim = ctypes.CDLL(None)
    shim.hvdtrain_kill_passed.restype = ctypes.c_long
    shim.hvdtrain_kill_arm(ctypes.c_long(at), how)
    for number in range(len(STEPS_ON)):
        content = make(first, number, layout)
        os.write(1, f"begin {number}\n".encode())
        checkpoint.save(root, content, keep=KEEP)
        os.write(1, f"done {number}\n".encode())
    os.write(1, f"passed {shim.hvdtrain_kill_passed()}\n".encode())


if __name__ == "__main__":
    main()
