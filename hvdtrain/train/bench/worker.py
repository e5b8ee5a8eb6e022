"""One process of one arm: `python -m hvdtrain.train.bench.worker TASK.json`. Leaves `result_RANK.json` beside it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hvdtrain.bench.meeting import Meeting
from hvdtrain.bench.task import Task
from hvdtrain.bench.turns import Gate
from hvdtrain.launch.rank import RankInfo, rank_info
from hvdtrain.train import devices
from hvdtrain.train.bench import memory

Train = Callable[..., None]


def main() -> None:
    """Train the task's models one after another and write what was measured."""
    task = Task.read(Path(sys.argv[1]))
    info = rank_info(os.environ)
    if info.size != task.num_ranks:
        sys.exit(f"{task.num_ranks} ranks were planned, {info.launcher} started {info.size}")
    train = wake(task, info)
    from hvdtrain.train.bench import problems
    from hvdtrain.train.bench.stopwatch import Stopwatch

    meeting = Meeting(Path(task.directory), info.rank, info.size)
    gate = Gate(Path(task.directory), info.rank)
    arrays = problems.data()
    rows = []
    for name in task.models:
        memory.reset_peak()
        batches = problems.batches(arrays, task, info.rank)
        stopwatch = Stopwatch(
            meeting,
            gate,
            num_turns=task.num_turns,
            seconds=task.seconds,
            steps_per_epoch=batches.order.steps_per_epoch,
            steps_per_execution=task.steps_per_execution,
        )
        train(name, batches, task, stopwatch)
        gate.wait()
        rows.append({"model": name, **measured(stopwatch, task.batch_size)})
    result = {"rank": info.rank, "cores": sorted(os.sched_getaffinity(0)), "models": rows}
    Path(task.directory, f"result_{info.rank:04d}.json").write_text(json.dumps(result), encoding="utf-8")


def wake(task: Task, info: RankInfo) -> Train:
    """Set up this process as its arm wants it, and return the arm's way to train."""
    if task.kind == "hand-written":
        return _wake_hand_written(info)
    if task.kind == "torch":
        return _wake_torch(info, task)
    if task.kind == "ceiling":
        bind(info)
        devices.set_threads(len(os.sched_getaffinity(0)), os.environ)
        comm = None
    else:
        from hvdtrain.train.world import wake_up

        world = wake_up(os.environ, num_ranks=task.num_ranks)
        comm = world.comm if task.kind.startswith("hvdtrain") else None
        if task.kind == "mirrored":
            devices.split_cpu(task.num_devices)
    from hvdtrain.train.bench import keras_fit

    return partial(keras_fit.train, comm=comm)


def _wake_hand_written(info: RankInfo) -> Train:
    if "HVDTRAIN_CORES_PER_RANK" in os.environ:  # absent under a default launch, where mpirun binds
        bind(info)
    import horovod.tensorflow as hvd

    hvd.init()
    from hvdtrain.train.bench import hand_written

    return hand_written.train


def _wake_torch(info: RankInfo, task: Task) -> Train:
    if info.size > 1:
        bind(info)
    from hvdtrain.train.bench import problems, torch_loop

    torch_loop.start(info, task)
    return partial(torch_loop.train, arrays=problems.data())


def bind(info: RankInfo) -> None:
    """Bind to the cores the product would bind this rank to."""
    devices.bind_cores(info.local_rank or 0, info.local_size or info.size, os.environ)


def measured(stopwatch: Any, batch_size: int) -> dict[str, Any]:
    """Return this rank's numbers for one model."""
    return {
        "steps": stopwatch.timed_steps,
        "examples": stopwatch.timed_steps * batch_size,
        "seconds": stopwatch.timed_s,
        "cpu_s": stopwatch.cpu_s,
        "warmup_steps": stopwatch.warmup_steps,
        "peak_rss_mb": memory.peak_rss_mb(),
    }


if __name__ == "__main__":
    main()
