"""Stopping in time: rank 0 alone looks at its clock, and all ranks stop at the same step with the state saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

from hvdtrain.errors import StoppedError
from hvdtrain.train.comm import Comm

INTERVAL_S = 2.0  # between two questions to rank 0: each is a small collective
MOST_GROWTH = 2  # the first executions are slow, so the interval in executions is found step by step


class TimeLimit(keras.callbacks.Callback):
    """Raise on all ranks together when the time is over. Place it after `Saver`.

    Rank 0 says whether to stop, and after how many executions to ask again: all ranks count them alike.

    Args:
        comm: The ranks.
        minutes: How long.
        began: When the time began, as `time.monotonic()` tells it.
        save: Called on all ranks before they stop.
        steps_done: Steps of the first epoch that an earlier start has done; they are passed over, not trained.
        steps_per_update: A stop comes only between two updates.
    """

    def __init__(
        self,
        comm: Comm,
        minutes: float,
        *,
        began: float,
        save: Callable[[], None],
        steps_done: int = 0,
        steps_per_update: int = 1,
    ) -> None:
        super().__init__()
        self._comm = comm
        self._minutes = minutes
        self._ends = began + 60 * minutes
        self._save = save
        self._steps_done = steps_done
        self._steps_per_update = steps_per_update
        self._interval = self._left = 1
        self._asked = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Ask when it is time to. The last step of an epoch is left to the epoch's end."""
        steps = batch + 1
        if steps <= self._steps_done or steps >= (self.params.get("steps") or steps + 1):
            return
        self._left -= 1
        if self._left <= 0 and steps % self._steps_per_update == 0:
            self._ask()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Ask once more, unless this was the end of it all."""
        self._steps_done = 0
        if epoch + 1 < self.params["epochs"] and not self.model.stop_training:
            self._ask()

    def _ask(self) -> None:
        answer = self._comm.gather_json(self._answer() if self._comm.rank == 0 else None, name="time_limit")[0]
        if answer["stop"]:
            self._save()
            raise StoppedError(f"the time is over: training.max_minutes {self._minutes:g}")
        self._interval = self._left = answer["executions"]

    def _answer(self) -> dict[str, Any]:
        now = time.monotonic()
        per_execution_s = max((now - self._asked) / self._interval, 1e-6)
        self._asked = now
        wait_s = min(INTERVAL_S, self._ends - now)
        executions = int(min(wait_s / per_execution_s, self._interval * MOST_GROWTH))
        return {"stop": now >= self._ends, "executions": max(1, executions)}
