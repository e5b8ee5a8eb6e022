"""Stopping in time: rank 0 alone sees the reason, and all ranks stop at the same step with the state saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.errors import StoppedError
from hvdtrain.train.comm import Comm
from hvdtrain.train.optimizer import Reduction, reduction_of

LOOK_S = 1.0  # between two looks for a reason: a look at a file may go through the network

Reason = Callable[[], str | None]


class Interrupt(keras.callbacks.Callback):
    """Raise on all ranks together when rank 0 sees a reason to. Place it after `Saver`.

    Rank 0's wish travels with the gradients of its next step, so it costs no message, and all ranks know of it after
    the same execution. At an epoch's end they ask rank 0.

    Args:
        comm: The ranks.
        reason: Says why training must stop, or None; asked on rank 0 only.
        save: Called on all ranks before they stop.
        steps_done: Steps of the first epoch that an earlier start has done; they are passed over, not trained.
        steps_per_update: A stop comes only between two updates.
    """

    def __init__(
        self,
        comm: Comm,
        reason: Reason,
        *,
        save: Callable[[], None],
        steps_done: int = 0,
        steps_per_update: int = 1,
    ) -> None:
        super().__init__()
        self._comm = comm
        self._reason = reason
        self._save = save
        self._steps_done = steps_done
        self._steps_per_update = steps_per_update
        self._found: str | None = None
        self._looked = -LOOK_S

    @property
    def _reduction(self) -> Reduction | None:
        return reduction_of(self.model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget an earlier fit."""
        if self._reduction is not None:
            self._reduction.wishes.forget("interrupt")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop, or look whether to. The last step of an epoch is left to the epoch's end."""
        steps = batch + 1
        if steps <= self._steps_done or steps >= (self.params.get("steps") or steps + 1):
            return
        if self._is_known() and steps % self._steps_per_update == 0:
            self._stop(self._found)
        self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Ask rank 0, unless this was the end of it all."""
        self._steps_done = 0
        if epoch + 1 >= self.params["epochs"] or self.model.stop_training:
            return
        self._looked = -LOOK_S
        self._look()
        found = self._comm.gather_json(self._found, name="interrupt")[0]
        if found is not None:
            self._stop(found)

    def _look(self) -> None:
        """Ask for a reason on rank 0, from time to time, and tell the others."""
        now = time.monotonic()
        if self._comm.rank != 0 or self._found is not None or now - self._looked < LOOK_S:
            return
        self._looked = now
        self._found = self._reason()
        if self._found is not None and self._reduction is not None:
            self._reduction.wishes.ask("interrupt")

    def _is_known(self) -> bool:
        if self._comm.size == 1:
            return self._found is not None
        return self._reduction is not None and self._reduction.wishes.is_known("interrupt")

    def _stop(self, found: str | None) -> None:
        self._save()
        raise StoppedError(found or "rank 0 asked for it")


class StopAfterEpoch(keras.callbacks.Callback):
    """Stop after so many epochs with the state saved; every rank counts alike. Place it after `Saver`.

    Args:
        num_epochs: Epochs of the whole run, not of this start.
        save: Called on all ranks before they stop.
    """

    def __init__(self, num_epochs: int, *, save: Callable[[], None]) -> None:
        super().__init__()
        self._num_epochs = num_epochs
        self._save = save

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop, unless this was the end of it all."""
        if self._num_epochs <= epoch + 1 < self.params["epochs"] and not self.model.stop_training:
            self._save()
            raise StoppedError(after_epochs(self._num_epochs))


def after_epochs(num_epochs: int) -> str:
    """Return the reason of a run that stops after some epochs."""
    return f"training.stop_after_epochs {num_epochs}"


def time_is_over(minutes: float, began: float) -> Reason:
    """Return the reason of a limited run.

    Args:
        minutes: How long it may take.
        began: When the time began, as `time.monotonic()` tells it.
    """
    ends = began + 60 * minutes
    return lambda: f"the time is over: training.max_minutes {minutes:g}" if time.monotonic() >= ends else None


def stop_file(path: Path) -> Reason:
    """Return the reason that somebody outside writes into a file: a batch script, or `hvdtrain cancel`."""

    def read() -> str | None:
        try:
            return path.read_text(encoding="utf-8").strip() or "asked for"
        except OSError:
            return None

    return read
