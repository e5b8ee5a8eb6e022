"""Recording some steps of a run on all ranks, `hvdtrain run --timeline`, and saying what they were spent on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvdtrain.rundir import write_text
from hvdtrain.timeline import horovod_events, summarise, words
from hvdtrain.train import recording
from hvdtrain.train.callbacks.step_window import StepWindow
from hvdtrain.train.comm import Comm

MAX_RANKS = 16  # that are recorded; one trace of all of them must stay small enough to open


class Timeline(StepWindow):
    """Record whole executions on all ranks, from the one that holds the first step to the one that holds the last one.

    Leaves `rank_0000/` for TensorBoard, `trace.json.gz` with all ranks and Horovod for Perfetto, Horovod's own
    `horovod.json`, and `summary.json`.

    Args:
        comm: The ranks.
        folder: For all of it, shared by the ranks.
        first, last: Steps, see `StepWindow`.
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
        def too_late(why: str) -> None:
            say(f"warning: no timeline: {why}; choose earlier ones with --timeline-steps FIRST:LAST")

        super().__init__(first=first, last=last, steps_per_execution=steps_per_execution, too_late=too_late)
        self._comm = comm
        self._folder = folder
        self._say = say

    @property
    def _horovod(self) -> Path:
        return self._folder / "horovod.json"

    @property
    def _mine(self) -> Path:
        return self._folder / f"rank_{self._comm.rank:04d}"

    @property
    def _is_recorded(self) -> bool:
        return self._comm.rank < MAX_RANKS

    def begin(self) -> None:
        """Begin to record, on rank 0 Horovod too."""
        if self._comm.rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._comm.start_timeline(self._horovod)
        if self._is_recorded:
            recording.start(self._mine)

    def end(self, num_steps: int) -> None:
        """End the recording, and say on rank 0 what was found. A collective."""
        summary = None
        if self._is_recorded:
            summary = summarise(recording.stop(self._mine, self._comm.rank), num_steps)
        found = [mine for mine in self._comm.gather_json(summary, name="timeline") if mine is not None]
        if self._comm.rank == 0:
            self._comm.stop_timeline()
            self._tell(found)

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
