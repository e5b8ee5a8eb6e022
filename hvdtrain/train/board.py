"""What a run shows in TensorBoard: rank 0's event files, written by a thread beside the training."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hvdtrain.errors import HvdtrainError
from hvdtrain.train import events
from hvdtrain.train.devices import step_back
from hvdtrain.train.events import Event, EventFile, Summary

# Two of TensorBoard's runs for each of ours: HParams shows every scalar that is beside the hyperparameters.
EPOCHS = "epochs"  # what an epoch has reached, and the hyperparameters
STEPS = "steps"  # what is also written within epochs
MAX_WAITING = 256  # events; a disk that stands still must not fill the memory
CLOSE_S = 30.0

Make = Callable[[], Iterable[Summary.Value] | Event]
Item = tuple[str, int, float, Make]


class Board:
    """Takes what is to be shown without waiting for a disk.

    What is handed over is turned into events in the thread: histograms and pictures take their time there. What cannot
    be made is left out, and if the disk fails nothing more is written; a line says so, and training goes on.

    Args:
        folder: For both files.
        last_step: What earlier starts have written up to this step stays; what came after it goes.
        say: Takes words for people.
    """

    def __init__(self, folder: Path, *, last_step: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.last_step = last_step
        self._say = say
        self._queue: queue.Queue[Item | None] = queue.Queue(MAX_WAITING)
        self._files: dict[str, EventFile] = {}
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._work, name="hvdtrain tensorboard", daemon=True)
        self._thread.start()

    def add(self, name: str, step: int, make: Make) -> None:
        """Take something to write.

        Args:
            name: `EPOCHS` or `STEPS`.
            step: The optimizer's.
            make: Called in the thread: returns what is written, or a whole event. It must hold copies.
        """
        try:
            self._queue.put_nowait((name, step, time.time(), make))
        except queue.Full:
            self._complain("points are left out of TensorBoard: the disk does not keep up")

    def close(self) -> None:
        """Wait until all of it is written."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    def _work(self) -> None:
        step_back([threading.get_native_id()])
        items = iter(self._queue.get, None)
        try:
            self._write_all(items)
        except Exception as error:  # curves are no reason to end a training, whatever it is
            words = words_of(error)
            self._complain(f"no more curves for TensorBoard are written to {self.folder}: {words}; training goes on")
        for _ in items:  # nobody must wait at a full queue
            pass

    def _write_all(self, items: Iterable[Item]) -> None:
        for name in (EPOCHS, STEPS):
            events.cut(self.folder / name, last_step=self.last_step)
        for item in items:
            self._write(*item)
            if self._queue.empty():
                for file in self._files.values():
                    file.flush()
        for file in self._files.values():
            file.close()

    def _write(self, name: str, step: int, wall_time: float, make: Make) -> None:
        try:
            made: Any = make()
            event = made if isinstance(made, Event) else Event(summary=Summary(value=made))
        except Exception as error:  # whatever it is: somebody else's data, a picture, a missing package
            self._complain(f"left out of TensorBoard: {words_of(error)}")
            return
        if name not in self._files:
            first_step = self.last_step + 1 if self.last_step else 0
            self._files[name] = EventFile(self.folder / name, first_step=first_step)
        event.step, event.wall_time = step, wall_time
        self._files[name].write(event)

    def _complain(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(f"warning: {text}")


def words_of(error: Exception) -> str:
    """Return what an error says, in one line."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, HvdtrainError) else f"{type(error).__name__}: {text}"
