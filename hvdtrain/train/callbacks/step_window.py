"""Doing something between two steps of a run: from the execution that holds the first to the one with the last."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import keras


class StepWindow(keras.callbacks.Callback, ABC):
    """Begin and end at steps, at the same ones on every rank.

    Args:
        first, last: Steps of this start of the run, from 1; never the first execution, which traces. If the epoch ends
            before, as many of the next one.
        steps_per_execution: Steps between two looks.
        too_late: Called with words on where it was to begin, if training was too short.
    """

    def __init__(self, *, first: int, last: int, steps_per_execution: int, too_late: Callable[[str], None]) -> None:
        super().__init__()
        self._steps_per_execution = steps_per_execution
        self._after = max((first - 1) // steps_per_execution, 1) * steps_per_execution
        self._last = max(last, self._after + 1)
        self._too_late = too_late
        self._steps = self._epoch_steps = 0
        self._began: int | None = None
        self._is_over = False

    @abstractmethod
    def begin(self) -> None:
        """Begin, before the next step."""

    @abstractmethod
    def end(self, num_steps: int) -> None:
        """End after so many steps."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Begin or end; every rank does at the same step."""
        done = min(batch + 1, self.params["steps"])  # the last execution may be shorter than Keras says
        self._steps += done - self._epoch_steps
        self._epoch_steps = done
        if self._is_over:
            return
        if self._began is None and self._steps >= self._after and self._fits(done):
            self._began = self._steps
            self.begin()
        elif self._began is not None and self._steps - self._began >= self._last - self._after:
            self._end(self._began)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count the next epoch's steps from none; evaluation would hide what a step does."""
        self._epoch_steps = 0
        if self._began is not None and self._steps > self._began and not self._is_over:
            self._end(self._began)

    def on_train_end(self, logs: Any = None) -> None:
        """Say so if training was too short."""
        if not self._is_over:
            self._too_late(f"it was to begin after step {self._after}, and the run had {self._steps}")

    def _fits(self, steps_done: int) -> bool:
        """Tell whether this epoch has as many steps left as the window has, or as any epoch has."""
        per_epoch = self.params["steps"]
        return bool(per_epoch - steps_done >= min(self._last - self._after, per_epoch - self._steps_per_execution))

    def _end(self, began: int) -> None:
        self._is_over = True
        self.end(self._steps - began)
