"""Rank 0's records and words: `metrics.jsonl`, the progress bar, one line per epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

from hvdtrain.plan import Plan
from hvdtrain.train import compat
from hvdtrain.train.console import Console

PROGRESS_S = 2.0


class Record(keras.callbacks.Callback):
    """Note each epoch. Place it after the callbacks that make the logs global.

    Args:
        plan: The run's numbers.
        console: Where people look.
        write: Takes (kind, values) for `metrics.jsonl`; does nothing on other ranks.
        steps_done: Steps of the first epoch that an earlier start of the run has done.
        progress: Takes where training is, every few seconds; does nothing on other ranks.
    """

    def __init__(
        self,
        plan: Plan,
        console: Console,
        write: Callable[..., None],
        *,
        steps_done: int = 0,
        progress: Callable[..., None] | None = None,
    ) -> None:
        super().__init__()
        self._steps_done = steps_done
        self._plan = plan
        self._console = console
        self._write = write
        self._progress = progress or (lambda **values: None)
        self._began = self._train_ended = self._shown = 0.0
        self._counted_from = (0.0, 0)  # time and step from which the speed that is shown counts
        self._epoch = self._steps = 0
        self.first_step_time = 0.0
        self.last_logs: dict[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._epoch = epoch
        self._began, self._train_ended, self._steps = time.perf_counter(), 0.0, 0
        self._counted_from = (self._began, self._steps_done)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar."""
        self._steps = min(batch + 1, self._plan.steps_per_epoch)
        if not self.first_step_time and self._steps > self._steps_done:
            self.first_step_time = time.time()
            self._write("first_step", step=self._steps)
            self._counted_from = (time.perf_counter(), self._steps)  # tracing is no measure of speed
        self._show_progress()
        self._console.bar(self._steps, self._plan.steps_per_epoch, f"loss {float((logs or {}).get('loss', 0)):.4f}")

    def _show_progress(self) -> None:
        now = time.perf_counter()
        began, first = self._counted_from
        if now - self._shown < PROGRESS_S or self._steps <= first:
            return
        self._shown = now
        rate = (self._steps - first) * self._plan.global_batch_size / max(now - began, 1e-9)
        step = self._epoch * self._plan.steps_per_epoch + self._steps
        total_steps = self._plan.total_steps
        self._progress(epoch=self._epoch + 1, step=step, total_steps=total_steps, examples_per_s=round(rate, 1))

    def on_test_begin(self, logs: Any = None) -> None:
        """Stop the training clock; evaluation is reported apart."""
        self._train_ended = self._train_ended or time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the record and say the line."""
        now = time.perf_counter()
        train_s = (self._train_ended or now) - self._began
        rate = (self._steps - self._steps_done) * self._plan.global_batch_size / max(train_s, 1e-9)
        self._steps_done = 0
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.last_logs = values
        self._write(
            "epoch",
            epoch=epoch + 1,
            step=compat.steps_taken(self.model),
            learning_rate=float(compat.to_array(self.model.optimizer.learning_rate)),
            examples_per_s=round(rate, 1),
            train_s=round(train_s, 4),
            evaluation_s=round(now - self._train_ended, 4) if self._train_ended else 0.0,
            **values,
        )
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._console.say(
            f"epoch {epoch + 1:>{len(str(self._plan.epochs))}}/{self._plan.epochs}  {shown}  "
            f"{rate:,.0f} examples/s  {now - self._began:.1f} s"
        )


class StopAtStep(keras.callbacks.Callback):
    """End a run that was given in steps; every rank counts alike, so all stop together. Place it after `AgreeStop`.

    Args:
        total_steps: Steps of the run, from its very first epoch.
        steps_per_epoch: Steps of a whole epoch.
    """

    def __init__(self, total_steps: int, steps_per_epoch: int) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember which epoch the next batches belong to."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop when the step has come; steps that loss scaling skipped count."""
        if self._epoch * self._steps_per_epoch + batch + 1 >= self._total_steps:
            self.model.stop_training = True
