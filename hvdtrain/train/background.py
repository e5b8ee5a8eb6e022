"""Checkpoints written beside the training: one at a time, in a thread that steps back, and none lost at the end.

Imports neither TensorFlow nor Keras, so a failing process can use it.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from hvdtrain.errors import HvdtrainError
from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import TEMPORARY, Checkpoint
from hvdtrain.train.devices import step_back

# A save that another process has begun shows in the directory within this time.
APPEARS_S = 0.3
POLL_S = 0.02


class BackgroundWriter:
    """Writes the checkpoints of one training.

    Each save has a thread of its own that Python waits for at the end of the process, whatever ends it in good order.

    Args:
        root: The directory of checkpoints.
        keep: How many stay.
        is_writer: Whether this process writes; one that does not can still wait for the one that does.
        on_saved: Called with a checkpoint's directory once it is on disk, in the writing thread.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int,
        is_writer: bool = True,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        self._root = root
        self._keep = keep
        self._is_writer = is_writer
        self._on_saved = on_saved
        self._thread: threading.Thread | None = None
        self._step = 0
        self._error: BaseException | None = None
        _writers.add(self)

    def write(self, snapshot: Checkpoint) -> None:
        """Begin to write a snapshot whose arrays nobody changes any more; waits for the one before.

        Raises:
            HvdtrainError: What went wrong with the one before; nothing is begun then.
        """
        self.flush()
        self._step = snapshot.step
        self._thread = threading.Thread(target=self._work, args=(snapshot,), name="hvdtrain checkpoint")
        self._thread.start()

    def flush(self) -> None:
        """Wait until what was begun is on disk.

        Raises:
            HvdtrainError: What went wrong with it.
        """
        self._wait(None)
        self.check()

    def check(self) -> None:
        """Raise what went wrong with the last save, once, without waiting for it."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def finish(self, timeout_s: float) -> str:
        """Wait for a save in flight, also another process's; return in words what is lost, or nothing. Never raises.

        A launcher ends the rank that writes as soon as another one has left.
        """
        if not self._is_writer:
            _wait_for_other(self._root, timeout_s)
            return ""
        if not self._wait(timeout_s):
            return (
                f"{self._root}: the checkpoint of step {self._step} is not on disk after {timeout_s:g} s more; "
                "the one before it stays"
            )
        error, self._error = self._error, None
        if error is None:
            return ""
        reason = str(error) if isinstance(error, HvdtrainError) else f"{type(error).__name__}: {error}"
        return f"the checkpoint of step {self._step} is lost: {reason}"

    def _wait(self, timeout_s: float | None) -> bool:
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def _work(self, snapshot: Checkpoint) -> None:
        step_back([threading.get_native_id()])
        try:
            path = checkpoint.save(self._root, snapshot, keep=self._keep)
            if self._on_saved is not None:
                self._on_saved(path)
        except BaseException as error:  # kept for the training's own thread, whatever it is
            self._error = error


def _wait_for_other(root: Path, timeout_s: float) -> None:
    """Wait until no checkpoint is being written in a directory."""
    deadline = time.monotonic() + timeout_s
    time.sleep(min(APPEARS_S, timeout_s))
    while time.monotonic() < deadline and any(root.glob(f"{TEMPORARY}*")):
        time.sleep(POLL_S)


_writers: weakref.WeakSet[BackgroundWriter] = weakref.WeakSet()


def finish_all(timeout_s: float) -> list[str]:
    """Wait for all saves in flight; return in words what is lost. For a process that is about to leave."""
    deadline = time.monotonic() + timeout_s
    words = [writer.finish(max(0.0, deadline - time.monotonic())) for writer in list(_writers)]
    return [text for text in words if text]


@atexit.register
def _tell_what_is_lost() -> None:
    """Say at the end of a process what nobody was told: its training ended by an exception that was caught."""
    for text in finish_all(0.0):
        print(f"hvdtrain: {text}", file=sys.stderr, flush=True)
