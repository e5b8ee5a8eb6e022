"""How fast each rank trains: counted on every rank, and added up over ranks with the metrics of the epoch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hvdtrain.train.comm import Comm
from hvdtrain.train.exposed import ExposedTime

NUM_FIELDS = 4


@dataclass(frozen=True)
class Lap:
    """What a rank has done in a stretch of time.

    Args:
        steps: Of training.
        examples: That this rank has seen.
        seconds: For all of it.
        exposed_s: Of these, waiting for averages; None where that cannot be known.
    """

    steps: int
    examples: int
    seconds: float
    exposed_s: float | None

    def row(self) -> np.ndarray:
        """Return it as numbers, shape (NUM_FIELDS,)."""
        exposed_s = np.nan if self.exposed_s is None else self.exposed_s
        return np.array([self.steps, self.examples, self.seconds, exposed_s])

    @classmethod
    def of_row(cls, row: np.ndarray) -> Lap:
        """Return what `row` stands for."""
        return cls(int(row[0]), int(row[1]), float(row[2]), None if np.isnan(row[3]) else float(row[3]))


@dataclass(frozen=True)
class Moment:
    """Steps of the epoch, the clock, and the seconds that averages were waited for, at one moment."""

    steps: int
    time_s: float
    exposed_s: float


class Speed(keras.callbacks.Callback):
    """Count steps and time. Place it before `GlobalMetrics`, which carries every rank's lap to all of them.

    Time begins with the end of the first execution that trains, since that one is traced, and stops for evaluation.

    Args:
        comm: The ranks.
        exposed: Where waits are added up, if they can be known.
        batch_size: This rank's examples in a step.
        steps_done: Steps of the first epoch that an earlier start of the run has done.

    Attributes:
        laps: What each rank did in the epoch, known after it; empty if nothing of it was timed.
    """

    def __init__(self, comm: Comm, exposed: ExposedTime | None, *, batch_size: int, steps_done: int = 0) -> None:
        super().__init__()
        self._comm = comm
        self._exposed = exposed
        self._batch_size = batch_size
        self._steps_done = steps_done
        self._is_traced = False
        self._steps = 0
        self._ended: Moment | None = None
        self._epoch_began = self._point_began = Moment(0, 0.0, 0.0)
        self.laps: list[Lap] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin a lap."""
        self._steps, self._ended = 0, None
        self._epoch_began = self._point_began = self._now()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the execution."""
        self._steps = min(batch + 1, self.params["steps"])  # the last execution may be shorter than Keras says
        if not self._is_traced and self._steps > self._steps_done:
            self._is_traced = True
            self._epoch_began = self._point_began = self._now()

    def on_test_begin(self, logs: Any = None) -> None:
        """End the lap: evaluation is no training."""
        self._ended = self._ended or self._now()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End the lap if there was no evaluation."""
        self._ended = self._ended or self._now()

    def mine(self) -> np.ndarray:
        """Return this rank's lap in a row of its own, zeros in those of others: shape (ranks, NUM_FIELDS)."""
        rows = np.zeros((self._comm.size, NUM_FIELDS))
        rows[self._comm.rank] = self._since(self._epoch_began).row()
        return rows

    def hear(self, summed: np.ndarray) -> None:
        """Take the sum over ranks of what `mine` has returned on each."""
        laps = [Lap.of_row(row) for row in summed]
        self.laps = laps if all(lap.steps for lap in laps) else []

    def seconds_since_point(self) -> float:
        """Return for how long the point's lap goes on; 0 while the training step is still to be traced."""
        return time.perf_counter() - self._point_began.time_s if self._is_traced else 0.0

    def steps_since_point(self) -> int:
        """Return the steps of the point's lap; 0 while the training step is still to be traced."""
        return self._steps - self._point_began.steps if self._is_traced else 0

    def point(self) -> Lap:
        """Return this rank's lap since the last point or the epoch's beginning, and begin the next."""
        lap = self._since(self._point_began)
        self._point_began = self._now()
        return lap

    def _now(self) -> Moment:
        return Moment(self._steps, time.perf_counter(), self._exposed.seconds() if self._exposed else 0.0)

    def _since(self, began: Moment) -> Lap:
        end = self._ended or self._now()
        steps = end.steps - began.steps
        exposed_s = end.exposed_s - began.exposed_s if self._exposed else None
        return Lap(steps, steps * self._batch_size, end.time_s - began.time_s, exposed_s)
