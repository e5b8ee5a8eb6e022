"""How long one allreduce takes, by size and by way: `python -m hvdtrain.train.bench.allreduce TASK`, once per rank.

Conventions of the OSU benchmarks and nccl-tests: sizes are bytes on each rank, times are means over the ranks, the
result is checked.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdtrain.train.comm import Comm, HorovodComm

ITEM_BYTES = 4  # float32
GAMMA_BYTES = 2**22

Run = Callable[[int], np.ndarray]


def main() -> None:
    """Measure what the task asks for, and let rank 0 leave the result."""
    from hvdtrain.train.world import wake_up

    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    world = wake_up(os.environ, num_ranks=task["num_ranks"], meet_in=Path(task["directory"]))
    asked = {"seconds": task["seconds"], "num_trials": task["num_trials"]}
    found = {"reduction": world.reduction, **sweep(world.comm, task["sizes"], **asked)}
    if world.rank == 0:
        place = Path(task["directory"], "allreduce.json")
        place.with_suffix(".tmp").write_text(json.dumps(found), encoding="utf-8")
        place.with_suffix(".tmp").replace(place)
    world.comm.gather_json("written", name="barrier")
    world.comm.shutdown()


def sweep(comm: Comm, sizes: Sequence[int], *, seconds: float, num_trials: int) -> dict[str, Any]:
    """Return the times of all sizes on every way that these ranks have, and the time of adding.

    Ways: `horovod` (inside a TensorFlow function, as in training), `hvdtrain` (what gradients use here: shared memory
    if all ranks have it in common), `mpi` (mpi4py on NumPy buffers). Trials go over all sizes and ways in turn.

    Args:
        comm: The ranks; at least two.
        sizes: Bytes, multiples of 4.
        seconds: Wanted time of each trial of each size and way.
        num_trials: How many; a row's time is their median.
    """
    cases = [(way, size, make(comm, size)) for way, make in ways(comm).items() for size in sizes]
    counts = {(way, size): _choose_count(comm, run, seconds) for way, size, run in cases}
    is_right = {(way, size): _is_right(comm, size, run) for way, size, run in cases}
    times: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(num_trials):
        for way, size, run in cases:
            mine = _time(comm, run, counts[way, size])
            times.setdefault((way, size), []).append(comm.gather_json(mine, name="allreduce"))
    rows = [
        {
            "way": way,
            "bytes": size,
            "seconds": statistics.median(statistics.mean(ranks) for ranks in trials),
            "fastest_trial_s": min(statistics.mean(ranks) for ranks in trials),
            "slowest_trial_s": max(statistics.mean(ranks) for ranks in trials),
            "iterations": counts[way, size],
            "is_right": is_right[way, size],
        }
        for (way, size), trials in times.items()
    ]
    return {"num_ranks": comm.size, "gamma_s": seconds_per_byte_added(), "rows": rows}


def ways(comm: Comm) -> dict[str, Callable[[Comm, int], Run]]:
    """Return the ways these ranks can add up arrays."""
    found: dict[str, Callable[[Comm, int], Run]] = {"horovod": through_horovod}
    if getattr(comm, "node_mean", None) is not None:
        found["hvdtrain"] = as_gradients
    if all(comm.gather_json(_has_mpi(), name="allreduce_ways")):
        found["mpi"] = through_mpi
    return found


def _has_mpi() -> bool:
    """Tell whether MPI is running here and lets two threads call it: Horovod's own one does."""
    from mpi4py import rc

    rc.initialize = rc.finalize = False
    from mpi4py import MPI

    return bool(MPI.Is_initialized() and MPI.Query_thread() == MPI.THREAD_MULTIPLE)


def pattern(size: int, rank: int) -> np.ndarray:
    """Return a rank's values: small whole numbers, whose sums and means over few ranks are exact."""
    return (np.arange(size // ITEM_BYTES) % 61 + rank).astype(np.float32)


def through_horovod(comm: Comm, size: int) -> Run:
    """Return the mean through Horovod, each one after the other inside one TensorFlow function."""
    assert isinstance(comm, HorovodComm)
    data = tf.constant(pattern(size, comm.rank))
    return _looped(data, lambda value: comm.allreduce_mean(value, name=f"bench.allreduce.{size}"))


def as_gradients(comm: Comm, size: int) -> Run:
    """Return the mean as gradients take it."""
    data = tf.constant(pattern(size, comm.rank))
    return _looped(data, lambda value: comm.average([value], name=f"bench.average.{size}")[0])


def _looped(data: tf.Tensor, reduce: Callable[[tf.Tensor], tf.Tensor]) -> Run:
    @tf.function  # type: ignore[untyped-decorator]
    def run(count: tf.Tensor) -> tf.Tensor:
        value = data
        for _ in tf.range(count):
            value = tf.ensure_shape(reduce(value), data.shape)
        return value

    return lambda count: run(tf.constant(count)).numpy()


def through_mpi(comm: Comm, size: int) -> Run:
    """Return the mean through mpi4py, on NumPy's buffers."""
    from mpi4py import MPI

    mine = pattern(size, comm.rank)
    total = np.empty_like(mine)

    def run(count: int) -> np.ndarray:
        for _ in range(count):
            MPI.COMM_WORLD.Allreduce(mine, total)
        return total / comm.size

    return run


def _choose_count(comm: Comm, run: Run, seconds: float) -> int:
    """Return how many times fill the wanted time, alike on all ranks; the first ones are not counted."""
    run(2)
    slowest = max(comm.gather_json(_time(comm, run, 4), name="allreduce"))
    return int(min(20_000, max(4, seconds / slowest)))


def _is_right(comm: Comm, size: int, run: Run) -> bool:
    expected = np.mean([pattern(size, rank) for rank in range(comm.size)], axis=0, dtype=np.float64)
    return bool(np.allclose(run(1), expected, rtol=1e-6))


def _time(comm: Comm, run: Run, count: int) -> float:
    comm.gather_json("ready", name="allreduce")
    began = time.perf_counter()
    run(count)
    return (time.perf_counter() - began) / count


def seconds_per_byte_added() -> float:
    """Return the seconds that adding one byte of a buffer to another takes on this rank."""
    a, b = (np.ones(GAMMA_BYTES // ITEM_BYTES, np.float32) for _ in range(2))
    times = []
    for _ in range(9):
        began = time.perf_counter()
        np.add(a, b, out=a)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / GAMMA_BYTES


if __name__ == "__main__":
    main()
