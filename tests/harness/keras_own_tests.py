"""Keras's own tests of its optimizers, with every optimizer that they construct made distributed.

    mpirun -np 2 python -m tests.harness.keras_own_tests FOLDER [--control]

Each rank runs the test files that Keras ships, on the same input, in the same order, and writes what became of each
test to FOLDER/rank_N.json. With --control the mean over ranks has the wrong sign, and only the tests against Keras's
own numbers run.
"""

import functools
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvdtrain.train.world import wake_up


class Counting:
    """The ranks, counting the means that are carried out; `factor` spoils them for the control."""

    def __init__(self, comm: Any, factor: float) -> None:
        import tensorflow as tf

        self._comm, self._factor = comm, factor
        self.count = tf.Variable(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def average_and_look(self, tensors: Any, name: str) -> Any:
        self.count.assign_add(1)
        averaged = self._comm.average_and_look(tensors, name)
        if self._factor == 1:
            return averaged
        return averaged._replace(means=[mean * self._factor for mean in averaged.means])

    def average_rows(self, rows: Any, name: str) -> Any:
        import tensorflow as tf

        self.count.assign_add(1)
        mean = self._comm.average_rows(rows, name)
        if self._factor == 1:
            return mean
        return tf.IndexedSlices(mean.values * self._factor, mean.indices, mean.dense_shape)


def distribute_all(comm: Any) -> None:
    """Make every optimizer distributed as soon as it is constructed, those of classes to come as well."""
    from keras import optimizers

    base = optimizers.Optimizer
    known = [base]
    for cls in known:
        known += cls.__subclasses__()
        distribute_after_init(cls, comm)

    def init_subclass(cls: type, /, **options: Any) -> None:
        super(base, cls).__init_subclass__(**options)
        if "hvdtrain_comm" not in vars(cls):
            distribute_after_init(cls, comm)

    base.__init_subclass__ = classmethod(init_subclass)


def distribute_after_init(cls: Any, comm: Any) -> None:
    """Wrap the constructor of a class. What stands inside another optimizer becomes plain again, as hvdtrain asks."""
    from keras import optimizers

    from hvdtrain.train.optimizer import distribute

    original = cls.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        if type(self) is cls:
            if isinstance(self, optimizers.LossScaleOptimizer):
                make_plain(self.inner_optimizer)
            for inner in getattr(self, "_inner_optimizers", ()):
                make_plain(inner)
            distribute(self, comm)

    cls.__init__ = init


def make_plain(optimizer: Any) -> None:
    from hvdtrain.train.optimizer import is_distributed

    if is_distributed(optimizer):
        optimizer.__class__ = type(optimizer).__mro__[2]
        del optimizer.hvdtrain_reduction


class Recorder:
    """A pytest plugin: what became of each test, and how many means over ranks it took."""

    def __init__(self, comm: Counting) -> None:
        self._comm = comm
        self._current = ""
        self.results: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        """Start every test from the same random numbers on all ranks, together."""
        import keras

        keras.utils.set_random_seed(0)
        # Not all versions of pytest have the file in the ids of tests that lie elsewhere.
        name = self._current = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
        self._comm.gather_json(name, name="next_test")
        before = int(self._comm.count)
        self.results[name] = {"outcome": "passed", "why": ""}
        result = yield
        self.results[name]["means"] = int(self._comm.count) - before
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        if not report.passed:
            why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.results[self._current] |= {"outcome": report.outcome, "why": why[-1500:]}


def keras_test_files() -> list[Path]:
    """Return the test files of Keras's optimizers, as they are installed."""
    package = Path(importlib.import_module("keras.src.optimizers").__file__ or "").parent
    return sorted(package.rglob("*_test.py"))


def main() -> None:
    folder = Path(sys.argv[1])
    world = wake_up(os.environ)
    comm = Counting(world.comm, factor=-1.0 if "--control" in sys.argv else 1.0)
    distribute_all(comm)
    recorder = Recorder(comm)
    options = ["-p", "no:cacheprovider", "-q", "--no-header", "--tb=short", "-W", "ignore", "-c", os.devnull]
    if "--control" in sys.argv:
        options += ["-k", "golden"]
    pytest.main([*options, *map(str, keras_test_files())], plugins=[recorder])
    results = {"rank": world.rank, "size": world.size, "means": int(comm.count), "tests": recorder.results}
    (folder / f"rank_{world.rank}.json").write_text(json.dumps(results, indent=1))
    comm.gather_json("done", name="done")
    world.comm.shutdown()


if __name__ == "__main__":
    main()
