"""Rank 0's curves for TensorBoard: what each epoch has reached, and within epochs the rate, the speed and the waits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from hvdtrain.train import compat
from hvdtrain.train.board import EPOCHS, STEPS, Board
from hvdtrain.train.callbacks.speed import Lap, Speed
from hvdtrain.train.events import scalars

INTERVAL_S = 1.0  # between two points within an epoch
MAX_RANKS = 16  # with curves of their own; of more, the lowest, middle and highest are shown
SHORTEST_SHARE = 0.1  # of an epoch: the speed of its last few steps alone is noise

RATE, SPEED, EXPOSED = "learning_rate", "speed/examples_per_s", "speed/exposed_communication_ms"
STEP_MS, RUNNING = "speed/step_ms", "running/"
RANK_SPEED, RANK_EXPOSED = "examples_per_s by rank/", "exposed_communication_ms by rank/"
DESCRIBED = {
    "epoch/": "Of the whole epoch, over the data of all ranks.",
    RUNNING: "Rank 0's own mean since the epoch began.",
    SPEED: "Of all ranks together, since the point before; checks and saves count, evaluation does not.",
    STEP_MS: "Milliseconds per step, since the point before.",
    EXPOSED: "Milliseconds per step for which rank 0 had its gradients and waited for the averages.",
    RANK_SPEED: "Examples per second of one rank, over the epoch's training.",
    RANK_EXPOSED: "Milliseconds per step for which the rank waited for averages. The slowest rank waits least.",
}


class Curves(keras.callbacks.Callback):
    """Write scalars. Place it after the callbacks that make the logs global; on rank 0 only.

    Args:
        board: Takes them.
        speed: Counts steps and time.
        global_batch_size: Examples of all ranks in a step.
        every_steps: Steps between two points within an epoch; None for one a second.
    """

    def __init__(self, board: Board, speed: Speed, *, global_batch_size: int, every_steps: int | None) -> None:
        super().__init__()
        self._board = board
        self._speed = speed
        self._global_batch_size = global_batch_size
        self._every_steps = every_steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a point if it is time; the end of the epoch writes its own."""
        if self._is_due() and batch + 1 < self.params["steps"]:
            running = {f"{RUNNING}{name}": float(value) for name, value in (logs or {}).items()}
            self._write(STEPS, {RATE: self._rate(), **self._speeds(), **running})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write what the epoch has reached."""
        self._write(EPOCHS, {f"epoch/{name}": float(value) for name, value in (logs or {}).items()})
        is_long = self._speed.steps_since_point() >= SHORTEST_SHARE * self.params["steps"]
        speeds_now = self._speeds() if is_long else {}
        self._write(STEPS, {RATE: self._rate(), **speeds_now, **by_rank(self._speed.laps)})

    def _is_due(self) -> bool:
        if self._every_steps is None:
            return self._speed.seconds_since_point() >= INTERVAL_S
        return self._speed.steps_since_point() >= self._every_steps

    def _rate(self) -> float:
        return float(compat.to_array(self.model.optimizer.learning_rate))

    def _speeds(self) -> dict[str, float]:
        return speeds(self._speed.point(), self._global_batch_size)

    def _write(self, name: str, values: Mapping[str, float]) -> None:
        if values:
            self._board.add(name, compat.steps_taken(self.model), lambda: scalars(values, DESCRIBED))


def speeds(lap: Lap, global_batch_size: int) -> dict[str, float]:
    """Return speed and waits of a lap of rank 0 by tag; what is not known is not there.

    >>> speeds(Lap(10, 320, 2.0, None), global_batch_size=64)
    {'speed/examples_per_s': 320.0, 'speed/step_ms': 200.0}
    """
    if lap.steps == 0:
        return {}
    values = {SPEED: lap.steps * global_batch_size / lap.seconds, STEP_MS: 1000 * lap.seconds / lap.steps}
    return values if lap.exposed_s is None else {**values, EXPOSED: 1000 * lap.exposed_s / lap.steps}


def by_rank(laps: Sequence[Lap]) -> dict[str, float]:
    """Return speed and waits of every rank by tag, or their range where ranks are many; nothing of a rank alone."""
    if len(laps) < 2:
        return {}
    values = _of_ranks(RANK_SPEED, [lap.examples / lap.seconds for lap in laps])
    waits = [1000 * lap.exposed_s / lap.steps for lap in laps if lap.exposed_s is not None]
    return {**values, **_of_ranks(RANK_EXPOSED, waits)} if len(waits) == len(laps) else values


def _of_ranks(tag: str, values: Sequence[float]) -> dict[str, float]:
    if len(values) <= MAX_RANKS:
        return {f"{tag}{rank:04d}": value for rank, value in enumerate(values)}
    middle = statistics.median(values)
    return {f"{tag}lowest": min(values), f"{tag}median": middle, f"{tag}highest": max(values)}
