"""Keras's own fit: with everything the product adds, or with nothing of it."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf

from hvdtrain import metrics as records
from hvdtrain.bench.task import Task
from hvdtrain.train import fused_adam
from hvdtrain.train.bench import problems
from hvdtrain.train.bench.stopwatch import Stopwatch
from hvdtrain.train.board import Board
from hvdtrain.train.callbacks import AgreeStop, Finite, GlobalMetrics, Saver, Setup, SyncProof
from hvdtrain.train.callbacks.curves import Curves
from hvdtrain.train.callbacks.record import Record
from hvdtrain.train.callbacks.speed import Speed
from hvdtrain.train.comm import Comm
from hvdtrain.train.console import Console
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.exposed import watch_exposed
from hvdtrain.train.nonfinite import Watch
from hvdtrain.train.optimizer import Reduction, distribute, reduction_of
from hvdtrain.train.sync import broadcast_state
from hvdtrain.train.trainer import TellEpoch

CHECK_EVERY_STEPS = 200
ENDLESS = 1_000_000


class BlindWatch(Watch):
    """Never finds anything, so that the step does not look."""

    def note(self, *args: Any, **options: Any) -> tf.Tensor:
        """Return that all is well."""
        return tf.constant(False)


class UncheckedSetup(Setup):
    """One state on all ranks, without comparing what they are going to do."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Broadcast."""
        self.model.optimizer.build(self.model.trainable_variables)
        broadcast_state(self.model, self._comm)


class Timer(keras.callbacks.Callback):
    """Keep the stopwatch, and end the fit when the last turn is over. Must be the last callback."""

    def __init__(self, stopwatch: Stopwatch, steps: int) -> None:
        super().__init__()
        self._stopwatch = stopwatch
        self._steps = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the execution, or as many single steps; every rank counts the same ones."""
        if (batch + 1) % self._steps == 0 and self._stopwatch.execution_done():
            self.model.stop_training = True


def train(name: str, batches: EpochBatches, task: Task, stopwatch: Stopwatch, comm: Comm | None) -> None:
    """Train one model; with a Comm as the product does, without evaluation, and with checkpoints if asked for.

    Args:
        name: The model.
        batches: This rank's data.
        task: What the launch is about.
        stopwatch: Told of every execution.
        comm: The ranks; None for plain Keras.
    """
    is_mirrored = task.kind == "mirrored"
    with mirrored(task.num_devices).scope() if is_mirrored else contextlib.nullcontext():
        model = problems.build(name)
        optimizer = problems.optimizer()
        model.compile(
            optimizer=optimizer if comm is None else distribute(optimizer, comm),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=1 if is_mirrored else task.steps_per_execution,  # Keras 3 fails with more
            jit_compile=False,
        )
    if task.kind == "hvdtrain keras update":
        fused_adam.KINDS = ()
    if task.kind == "hvdtrain unchecked":
        optimizer.hvdtrain_reduction.watch = BlindWatch()
    has_board = task.kind == "hvdtrain curves" and comm is not None and comm.rank == 0
    folder = Path(tempfile.mkdtemp(prefix="tensorboard-", dir=task.directory))
    board = Board(folder, last_step=0, say=print) if has_board else None
    ours = [] if comm is None else product_callbacks(comm, batches, task, reduction_of(model), board)
    callbacks = [TellEpoch(batches), *ours, Timer(stopwatch, task.steps_per_execution)]
    model.fit(batches.dataset(), epochs=ENDLESS, verbose=0, callbacks=callbacks)
    if board is not None:
        board.close()


def mirrored(num_devices: int) -> tf.distribute.Strategy:
    """Return MirroredStrategy over the parts of the CPU."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num_devices)])


def product_callbacks(
    comm: Comm, batches: EpochBatches, task: Task, reduction: Reduction | None, board: Board | None
) -> list[keras.callbacks.Callback]:
    """Return what `hvdtrain run` adds to fit; checkpoints on the saving arm only, curves on the arm of that name."""
    order = batches.order
    speeds = []
    if task.kind == "hvdtrain curves":
        speeds = [Speed(comm, watch_exposed(reduction), batch_size=order.own_batch_size)]
    curves = [
        Curves(board, speed, global_batch_size=order.examples_per_step, every_steps=None)
        for speed in speeds
        if board is not None
    ]
    directory = Path(task.directory)
    plan: Any = SimpleNamespace(
        steps_per_epoch=order.steps_per_epoch, global_batch_size=order.batch_size * order.size, epochs=ENDLESS,
        total_steps=ENDLESS * order.steps_per_epoch,
    )

    def write(kind: str, **values: Any) -> None:
        if comm.rank == 0:
            records.append_record(directory / "metrics.jsonl", records.record_line(kind, time.time(), **values))

    record = Record(plan, Console(None, has_bar=False), write)
    if task.kind == "hvdtrain unchecked":
        return [UncheckedSetup(comm), record, AgreeStop(comm)]
    proof = SyncProof(comm, CHECK_EVERY_STEPS)
    savers = []
    if task.kind == "hvdtrain saving":
        savers = [
            Saver(
                comm,
                Path(tempfile.mkdtemp(prefix="checkpoints-", dir=directory)),
                every_steps=task.steps_per_save,
                prove=proof.check,
                on_saved=lambda path: write("checkpoint", path=path.name),
            )
        ]
    return [
        Setup(comm),
        *speeds,
        GlobalMetrics(comm, *speeds),
        Finite(comm),
        proof,
        record,
        *curves,
        AgreeStop(comm),
        *savers,
    ]
