"""Rank 0 saves after epochs and, if wanted, within them, while training goes on; the others wait for nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.errors import CorruptError, UserCodeError
from hvdtrain.train import checkpoint, compat
from hvdtrain.train.background import BackgroundWriter
from hvdtrain.train.callbacks.memory import Memory
from hvdtrain.train.callbacks.resume import metric_totals
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.comm import Comm
from hvdtrain.train.state import capture


class Saver(keras.callbacks.Callback):
    """Write a checkpoint every N epochs, every N steps, and at the end of training.

    A save takes a copy and hands it to a thread. What goes wrong there stops the training with the next batch, save or
    end of the fit; a process that ends by an exception waits for the thread (see failure.py).

    Args:
        comm: The ranks; rank 0 alone writes.
        root: The directory of checkpoints.
        every_epochs: Epochs between two; None for the end only.
        every_steps: Steps between two within an epoch; None for none. Saved where an execution ends.
        prove: Called on all ranks before each save; raises if ranks differ.
        keep: How many stay.
        state: What to remember beside the arrays.
        found: The checkpoint training starts from.
        memory: What the user's callbacks remember.
        on_saved: Called with the checkpoint's directory once it is on disk, in the writing thread.
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
        self._state = state or {}
        self._memory = memory or Memory(())
        self._writer = BackgroundWriter(root, keep=keep, is_writer=comm.rank == 0, on_saved=on_saved)
        self._begins_at = found.position if found else (0, 0)
        self._epochs_done, self._steps_done = self._begins_at
        self._is_due = False
        self._saved = (*found.position, found.step) if found else None

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse a directory in which what this training saves would not be the newest.

        Raises:
            UserCodeError: On all ranks, if it holds a valid checkpoint of a later step than training starts at.
        """
        (self._epochs_done, self._steps_done), self._begins_at = self._begins_at, (0, 0)
        step = compat.steps_taken(self.model)
        later = ""
        if self._comm.rank == 0:
            checkpoint.clear_temporary(self._root)  # others wait for what is being written, not for what was left
            later = self._valid_after(step)
        later = self._comm.gather_json(later, name="saver")[0]
        if later:
            raise UserCodeError(
                f"{later} is of a later step than this training starts at ({step}): it would go on being taken for the "
                "newest. Go on from it (resume), or save to another directory, or move it away"
            )

    def _valid_after(self, step: int) -> str:
        for directory in reversed(checkpoint.checkpoints(self._root)):
            if checkpoint.step_of(directory) > step:
                with contextlib.suppress(CorruptError):
                    checkpoint.verify(directory)
                    return str(directory)
        return ""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember how many epochs are done."""
        self._epochs_done, self._is_due = epoch, False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save within an epoch when it is time, and where training stops before its end. All ranks count alike.

        Between two updates only: in the middle of one each rank holds gradients of its own.
        """
        self._writer.check()
        steps = self._in_epoch(batch + 1)
        before, self._steps_done = self._steps_done, max(steps, self._steps_done)
        if steps <= before or steps == self.params.get("steps"):
            return
        is_time = self._every_steps is not None and steps // self._every_steps > before // self._every_steps
        self._is_due = self._is_due or is_time or self.model.stop_training
        if self._is_due and (self._comm.size == 1 or steps % compat.steps_per_update(self.model.optimizer) == 0):
            self._is_due = False
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
        """Save the last state if that has not been done, and see everything to the disk.

        A fit that had no epoch left to do has nothing new.
        """
        if self._epochs_done:
            self.save()
        try:
            self._writer.flush()
        finally:
            self._comm.gather_json("saved", name="saver")  # whoever reads the directory next finds it complete

    def _in_epoch(self, steps: int) -> int:
        """Return the steps really done: the last execution of an epoch may be a short one."""
        return min(steps, self.params.get("steps") or steps)

    def save(self) -> None:
        """Prove the present state equal on all ranks and begin to write it, on rank 0, unless that is done already."""
        step = compat.steps_taken(self.model)
        position = (self._epochs_done, self._steps_done, step)
        if position == self._saved:
            return
        self._prove()
        self._saved = position
        totals = metric_totals(self.model, self._comm) if self._steps_done else {}
        if self._comm.rank != 0:
            return
        state = {
            **self._state,
            "epochs_done": self._epochs_done,
            "steps_done": self._steps_done,
            "steps_per_epoch": self.params.get("steps"),
            "world_size": self._comm.size,
            "callbacks": self._memory.values(),
        }
        self._writer.flush()  # before the copy is made: there is never more than one
        more = totals | self._memory.weights()
        self._writer.write(capture(self.model, step=step, state=state, more=more))
