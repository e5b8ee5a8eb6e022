"""Recording some steps of a run on all ranks, `hvdtrain run --timeline`, and saying what they were spent on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.rundir import write_text
from hvdtrain.timeline import horovod_events, summarise, words
from hvdtrain.train import recording
from hvdtrain.train.comm import Comm

MAX_RANKS = 16  # that are recorded; one trace of all of them must stay small enough to open


class Timeline(keras.callbacks.Callback):
    """Record whole executions, from the one that holds the first step to the one that holds the last one.

    Leaves `rank_0000/` for TensorBoard, `trace.json.gz` with all ranks and Horovod for Perfetto, Horovod's own
    `horovod.json`, and `summary.json`.

    Args:
        comm: The ranks.
        folder: For all of it, shared by the ranks.
        first, last: Steps of this run, from 1; never the first execution, which traces. If the epoch ends before, as
            many of the next one.
        steps_per_execution: Steps between two looks.
        say: Called with lines for the user, on rank 0.
    """

    def __init__(
        self,
        comm: Comm,
        folder: Path,
        *,
        first: int,
        last: int,
        steps_per_execution: int,
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._comm = comm
        self._folder = folder
        self._steps_per_execution = steps_per_execution
        self._after = max((first - 1) // steps_per_execution, 1) * steps_per_execution
        self._last = max(last, self._after + 1)
        self._say = say
        self._steps = self._epoch_steps = 0
        self._began: int | None = None
        self._is_over = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Begin or end; every rank does at the same step."""
        done = min(batch + 1, self.params["steps"])  # the last execution may be shorter than Keras says
        self._steps += done - self._epoch_steps
        self._epoch_steps = done
        if self._is_over:
            return
        if self._began is None and self._steps >= self._after and self._fits(done):
            self._begin()
        elif self._began is not None and self._steps - self._began >= self._last - self._after:
            self._end()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count the next epoch's steps from none; evaluation would hide what a step does."""
        self._epoch_steps = 0
        if self._began is not None and self._steps > self._began:
            self._end()

    def on_train_end(self, logs: Any = None) -> None:
        """Say so if training was too short."""
        if not self._is_over:
            too_late = f"it was to begin after step {self._after}, and the run had {self._steps}"
            self._say(f"warning: no timeline: {too_late}; choose earlier ones with --timeline-steps FIRST:LAST")

    def _fits(self, steps_done: int) -> bool:
        """Tell whether this epoch has as many steps left as are to be recorded, or as any epoch has."""
        per_epoch = self.params["steps"]
        return bool(per_epoch - steps_done >= min(self._last - self._after, per_epoch - self._steps_per_execution))

    @property
    def _horovod(self) -> Path:
        return self._folder / "horovod.json"

    @property
    def _mine(self) -> Path:
        return self._folder / f"rank_{self._comm.rank:04d}"

    @property
    def _is_recorded(self) -> bool:
        return self._comm.rank < MAX_RANKS

    def _begin(self) -> None:
        self._began = self._steps
        if self._comm.rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._comm.start_timeline(self._horovod)
        if self._is_recorded:
            recording.start(self._mine)

    def _end(self) -> None:
        assert self._began is not None
        num_steps = self._steps - self._began
        self._is_over = True
        summary = None
        if self._is_recorded:
            summary = summarise(recording.stop(self._mine, self._comm.rank), num_steps)
        found = [mine for mine in self._comm.gather_json(summary, name="timeline") if mine is not None]
        if self._comm.rank == 0:
            self._comm.stop_timeline()
            self._tell(found)
        self._began = None

    def _tell(self, summaries: list[dict[str, Any]]) -> None:
        places = [self._folder / f"rank_{rank:04d}" / "trace.json.gz" for rank in range(len(summaries))]
        trace = self._folder / "trace.json.gz"
        events = [event for place in places for event in recording.read_trace(place)]
        if self._horovod.is_file():
            events += horovod_events(self._horovod.read_text(encoding="utf-8"))
        recording.write_trace(trace, events)
        write_text(self._folder / "summary.json", json.dumps(summaries, indent=1) + "\n")
        for line in words(summaries):
            self._say(line)
        self._say(f"  open in https://ui.perfetto.dev: {trace}")
        self._say(f"  TensorBoard, with its profile plugin: tensorboard --logdir {self._folder}")
