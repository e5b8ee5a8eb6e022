"""The control of both harnesses: Keras's `model.save_weights` over the file that is there already.

`python -m tests.harness.keras_in_place [--kills N] [--damages N]` with the library of kill_writer in LD_PRELOAD; prints
one JSON object that counts what came of it. The same calls are killed, the same damage is done to its file.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import random
import tempfile
from pathlib import Path

from tests.harness.damage import damage
from tests.harness.kill_writer import FOREVER, HOW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--damages", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = InPlace(Path(folder, "model.weights.h5"))
        kills = collections.Counter(bench.killed(case) for case in range(options.kills))
        damages = collections.Counter(bench.damaged(case) for case in range(options.damages))
    print(json.dumps({"kills": kills, "damages": damages}))


class InPlace:
    """One weights file, saved over by forked processes that are killed, or damaged."""

    def __init__(self, path: Path) -> None:
        import keras

        self.path = path
        self.model = keras.Sequential([keras.layers.Input((20,)), keras.layers.Dense(50), keras.layers.Dense(3)])
        self.old = [weight + 1 for weight in self.model.get_weights()]
        self.new = [weight + 2 for weight in self.model.get_weights()]
        self.model.set_weights(self.old)
        self.model.save_weights(path)
        self.whole = path.read_bytes()
        self.model.set_weights(self.new)
        self.num_points = self._num_points()

    def _num_points(self) -> int:
        read, write = os.pipe()
        if os.fork() == 0:
            shim = self._save(FOREVER, 0)
            os.write(write, str(shim.hvdtrain_kill_passed()).encode())
            os._exit(0)
        os.wait()
        return int(os.read(read, 20))

    def _save(self, at: int, how: int) -> ctypes.CDLL:
        shim = ctypes.CDLL(None)
        shim.hvdtrain_kill_arm(ctypes.c_long(at), how)
        self.model.save_weights(self.path)
        return shim

    def killed(self, case: int) -> str:
        """Kill a save over a whole file; return what is there afterwards."""
        self.path.write_bytes(self.whole)
        self.model.set_weights(self.new)
        process = os.fork()
        if process == 0:
            self._save(case % self.num_points + 1, case // self.num_points % len(HOW))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -9
        return self._look({"old": self.old, "new": self.new})

    def damaged(self, case: int) -> str:
        """Damage a whole file; return whether Keras sees it."""
        self.path.write_bytes(damage(random.Random(case), self.whole)[0])
        return self._look({"harmless": self.old})

    def _look(self, expected: dict[str, list]) -> str:
        self.model.set_weights([weight * 0 for weight in self.old])
        try:
            self.model.load_weights(self.path)
        except Exception:
            return "not loadable"
        found = [weight.tobytes() for weight in self.model.get_weights()]
        same = [name for name, weights in expected.items() if found == [weight.tobytes() for weight in weights]]
        return same[0] if same else "wrong weights without a word"


if __name__ == "__main__":
    main()
