"""Rank 0's curves for TensorBoard: the epoch's global values, the learning rate, the speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train import compat

INTERVAL_S = 1.0  # between two points: epochs of a small model are over in a tenth of that


class Curves(keras.callbacks.Callback):
    """Write scalars after epochs. Place it after the callbacks that make the logs global; on rank 0 only.

    Args:
        folder: Where the event files go.
        examples_per_epoch: Of all ranks together.
    """

    def __init__(self, folder: Path, examples_per_epoch: int) -> None:
        super().__init__()
        self._folder = folder
        self._examples_per_epoch = examples_per_epoch
        self._writer: Any = None
        self._began = 0.0
        self._written = -INTERVAL_S
        self._held: tuple[int, dict[str, float]] | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's values at its last step, or hold them if the last point is too young."""
        now = time.perf_counter()
        values = {f"epoch/{name}": float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(compat.to_array(self.model.optimizer.learning_rate))
        values["examples_per_s with evaluation"] = self._examples_per_epoch / max(now - self._began, 1e-9)
        self._held = (compat.steps_taken(self.model), values)
        if now - self._written >= INTERVAL_S:
            self._written = now
            self._write()

    def on_train_end(self, logs: Any = None) -> None:
        """Write what is held: the last epoch is always there."""
        self._write()

    def _write(self) -> None:
        if self._held is None:
            return
        (step, values), self._held = self._held, None
        self._writer = self._writer or tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)
        self._writer.flush()
