"""Timing training in short segments, and between them the same steps with parts of the work left out."""

from __future__ import annotations

import math
import time
from typing import Any

import keras

from hvdtrain.train.comm import Comm
from hvdtrain.train.probes import Probe, TimedFunction
from hvdtrain.train.sync import broadcast_state

SEGMENT_S = 0.5
MIN_SEGMENTS = 5
PREFETCHED_STEPS = 3  # what the input pipeline may have made ready while it was not asked


class Meter(keras.callbacks.Callback):
    """End the fit when enough has been timed. Must be the last callback.

    A segment is some executions of `fit` as they are, with what callbacks and epochs' ends cost. After each one every
    probe runs for as many. All ranks count alike, and begin each stretch together.

    Args:
        comm: The ranks.
        probes: What is timed between the segments, by name.
        warmup_steps: Steps that are not timed.
        seconds: Of training that are timed.
        steps_per_execution: Steps of one call into TensorFlow.

    Attributes:
        cycles: Name -> seconds per step, one value per segment: `step` of fit, `function` within TensorFlow, and each
            probe.
        segment_steps: Steps of a segment.
        cpu_share: CPU seconds of this process per second of training; of several cores above 1.
    """

    def __init__(
        self, comm: Comm, probes: dict[str, Probe], *, warmup_steps: int, seconds: float, steps_per_execution: int
    ) -> None:
        super().__init__()
        self._comm = comm
        self._probes = probes
        self._warmup_steps = warmup_steps
        self._seconds = seconds
        self._steps_per_execution = steps_per_execution
        self._settling = math.ceil(PREFETCHED_STEPS / steps_per_execution)
        self._executions = self._before_epoch = self._steps = self._left = self._segments_left = 0
        self._segment_executions = 0
        self._traced_at = 0.0
        self._function: TimedFunction | None = None
        self._marks = (0.0, 0.0, 0.0, 0)
        self._cpu_s = self._wall_s = 0.0
        self.cycles: dict[str, list[float]] = {}

    @property
    def segment_steps(self) -> int:
        """Steps of a segment, as far as an epoch's end does not cut one short."""
        return self._segment_executions * self._steps_per_execution

    @property
    def cpu_share(self) -> float:
        """How many cores this process kept busy."""
        return self._cpu_s / self._wall_s if self._wall_s else 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember where the epoch begins; Keras counts its batches from 0."""
        self._before_epoch = self._steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count an execution, and do what is due after it."""
        now = time.perf_counter()
        self._steps = self._before_epoch + batch + 1
        self._executions += 1
        if self._executions == 1:
            self._traced_at = now
        if self._function is None:
            if self._steps >= self._warmup_steps and self._executions > 2:
                self._prepare((now - self._traced_at) / (self._executions - 1))
            return
        if self._left == self._segment_executions:
            self._begin_clock()
        if self._left == 0:
            self._note(now)
            self._segments_left -= 1
            if self._segments_left == 0:
                self.model.stop_training = True
                return
            self._begin_segment()
        self._left -= 1

    def _prepare(self, execution_s: float) -> None:
        """Choose the segments' length, alike on all ranks, and trace what the probes run."""
        slowest = max(self._comm.gather_json(execution_s, name="meter"))
        self._segment_executions = max(1, round(SEGMENT_S / slowest))
        self._segments_left = max(MIN_SEGMENTS, math.ceil(self._seconds / (self._segment_executions * slowest)))
        self.model.train_function = self._function = TimedFunction(self.model.train_function)
        for probe in self._probes.values():
            probe.run(1)
        self._bring_together()
        self._begin_segment()

    def _begin_segment(self) -> None:
        self._comm.gather_json("segment", name="meter")
        self._left = self._segment_executions + self._settling

    def _begin_clock(self) -> None:
        assert self._function is not None
        self._marks = (time.perf_counter(), time.process_time(), self._function.seconds, self._steps)

    def _note(self, now: float) -> None:
        """Keep the segment that has ended, and run the probes."""
        assert self._function is not None
        began, cpu_began, function_began, steps_began = self._marks
        steps = self._steps - steps_began
        self._wall_s += now - began
        self._cpu_s += time.process_time() - cpu_began
        self._keep("step", (now - began) / steps)
        self._keep("function", (self._function.seconds - function_began) / steps)
        for name, probe in self._probes.items():
            self._comm.gather_json(name, name="meter")
            probe.run(self._settling)
            self._keep(name, probe.run(self._segment_executions) / self._steps_per_execution)
        self._bring_together()

    def _bring_together(self) -> None:
        """Give all ranks one state again: probes have trained each rank's model on its own."""
        if self._probes:
            broadcast_state(self.model, self._comm)

    def _keep(self, name: str, seconds_per_step: float) -> None:
        self.cycles.setdefault(name, []).append(seconds_per_step)
