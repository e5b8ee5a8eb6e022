"""Rank 0 saves at the end of epochs and, if wanted, within them; the others wait for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.train import checkpoint, compat
from hvdtrain.train.callbacks.memory import Memory
from hvdtrain.train.callbacks.resume import metric_totals
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.comm import Comm
from hvdtrain.train.state import capture


class Saver(keras.callbacks.Callback):
    """Write a checkpoint every N epochs, every N steps, and at the end of training.

    Place it after `SyncProof`, so that only a state proven equal on all ranks is saved.

    Args:
        comm: The ranks; rank 0 alone writes.
        root: The directory of checkpoints.
        every_epochs: Epochs between two; None for the end only.
        every_steps: Steps between two within an epoch; None for none. Saved where an execution ends.
        prove: Called on all ranks before a save within an epoch; raises if ranks differ.
        keep: How many stay.
        state: What to remember beside the arrays.
        found: The checkpoint training starts from.
        memory: What the user's callbacks remember.
        on_saved: Called with the checkpoint's directory.
    """

    def __init__(
        self,
        comm: Comm,
        root: Path,
        *,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        prove: Callable[[], None] | None = None,
        keep: int = 3,
        state: dict[str, Any] | None = None,
        found: Checkpoint | None = None,
        memory: Memory | None = None,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        super().__init__()
        self._comm = comm
        self._root = root
        self._every_epochs = every_epochs
        self._every_steps = every_steps
        self._prove = prove or (lambda: None)
        self._keep = keep
        self._state = state or {}
        self._memory = memory or Memory(())
        self._on_saved = on_saved
        self._epochs_done = found.state["epochs_done"] if found else 0
        self._steps_done = found.state.get("steps_done", 0) if found else 0
        self._saved = (self._epochs_done, self._steps_done) if found else None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember how many epochs are done."""
        self._epochs_done = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save within an epoch when it is time, and where training stops before its end. All ranks count alike."""
        steps = self._in_epoch(batch + 1)
        before, self._steps_done = self._steps_done, max(steps, self._steps_done)
        if steps <= before or steps == self.params.get("steps"):
            return
        is_time = self._every_steps is not None and steps // self._every_steps > before // self._every_steps
        if is_time or self.model.stop_training:
            self._prove()
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save when it is time. An epoch that was stopped before its end is saved already, and is not done."""
        if self._steps_done != (self.params.get("steps") or self._steps_done):
            return
        is_time = self._every_steps is not None and self._steps_done % self._every_steps == 0
        self._epochs_done, self._steps_done = epoch + 1, 0
        if is_time or (self._every_epochs and self._epochs_done % self._every_epochs == 0):
            self.save()

    def on_train_end(self, logs: Any = None) -> None:
        """Save the last state if that has not been done; a fit that had no epoch left to do has nothing new."""
        if self._epochs_done:
            self.save()

    def _in_epoch(self, steps: int) -> int:
        """Return the steps really done: the last execution of an epoch may be a short one."""
        return min(steps, self.params.get("steps") or steps)

    def save(self) -> None:
        """Write the present state, on rank 0, unless it is on disk already. A collective within an epoch."""
        position = (self._epochs_done, self._steps_done)
        if position == self._saved:
            return
        self._saved = position
        totals = metric_totals(self.model, self._comm) if self._steps_done else {}
        if self._comm.rank != 0:
            return
        state = {
            **self._state,
            "epochs_done": self._epochs_done,
            "steps_done": self._steps_done,
            "world_size": self._comm.size,
            "callbacks": self._memory.values(),
        }
        totals |= self._memory.weights()
        step = compat.steps_taken(self.model)
        path = checkpoint.save(self._root, capture(self.model, step=step, state=state, more=totals), keep=self._keep)
        if self._on_saved is not None:
            self._on_saved(path)
