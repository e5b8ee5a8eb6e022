"""Rank 0's curves for TensorBoard: the epoch's global values, the learning rate, the speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.train import compat


class Curves(keras.callbacks.Callback):
    """Write scalars after each epoch. Place it after the callbacks that make the logs global; on rank 0 only.

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

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's values at its last step."""
        self._writer = self._writer or tf.summary.create_file_writer(str(self._folder))
        seconds = time.perf_counter() - self._began
        values = {f"epoch/{name}": float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(compat.to_array(self.model.optimizer.learning_rate))
        values["examples_per_s with evaluation"] = self._examples_per_epoch / max(seconds, 1e-9)
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=compat.steps_taken(self.model))
        self._writer.flush()
