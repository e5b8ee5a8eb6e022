"""The timed turns: whole executions after a warm-up, the same number on every rank, whole epochs in all."""

from __future__ import annotations

import math
import time

from hvdtrain.bench.meeting import Meeting
from hvdtrain.bench.task import MIN_WARMUP_STEPS
from hvdtrain.bench.turns import Gate


class Stopwatch:
    """Leaves tracing and the first epoch's end out, chooses the turns' length from the warm-up's speed, times them.

    Args:
        meeting: The ranks; they agree on the length.
        gate: Where a turn is waited for.
        num_turns: How many are timed.
        seconds: Their wanted length.
        steps_per_epoch: Steps of each epoch.
        steps_per_execution: Steps between two looks at this watch.
    """

    def __init__(
        self,
        meeting: Meeting,
        gate: Gate,
        *,
        num_turns: int,
        seconds: float,
        steps_per_epoch: int,
        steps_per_execution: int,
    ) -> None:
        self._meeting = meeting
        self._gate = gate
        self._num_turns = num_turns
        self._wanted_s = seconds
        self._steps_per_execution = steps_per_execution
        self._executions_per_epoch = steps_per_epoch // steps_per_execution
        self._num_warmup = max(self._executions_per_epoch + 1, math.ceil(MIN_WARMUP_STEPS / steps_per_execution) + 1)
        self._executions = self._turn_length = self._left = 0
        self._traced_at = self._began = self._cpu_began = 0.0
        self.timed_s: list[float] = []
        self.cpu_s = 0.0

    @property
    def warmup_steps(self) -> int:
        """Steps before the first turn."""
        return self._num_warmup * self._steps_per_execution

    @property
    def timed_steps(self) -> int:
        """Steps of all turns."""
        return self._turn_length * len(self.timed_s) * self._steps_per_execution

    def execution_done(self) -> bool:
        """Count an execution; return True when all turns are over."""
        now, cpu_now = time.perf_counter(), time.process_time()
        self._executions += 1
        if self._executions == 1:
            self._traced_at = now
        elif self._executions == self._num_warmup:
            self._turn_length = self._choose_length((self._executions - 1) / (now - self._traced_at))
            self._begin()
        elif self._left:
            self._left -= 1
            if self._left == 0:
                self.timed_s.append(now - self._began)
                self.cpu_s += cpu_now - self._cpu_began
                if len(self.timed_s) == self._num_turns:
                    return True
                self._begin()
        return False

    def _choose_length(self, executions_per_s: float) -> int:
        slowest = min(self._meeting.exchange(executions_per_s))
        return turn_length(self._wanted_s * slowest, self._executions_per_epoch, self._num_turns)

    def _begin(self) -> None:
        self._gate.wait()
        self._left = self._turn_length
        self._began, self._cpu_began = time.perf_counter(), time.process_time()


def turn_length(wanted: float, executions_per_epoch: int, num_turns: int) -> int:
    """Return about the wanted number of executions, so that all turns together are whole epochs.

    >>> turn_length(1.2, executions_per_epoch=11, num_turns=11), turn_length(90.0, 11, 11), turn_length(1.0, 4, 10)
    (1, 90, 2)
    """
    unit = executions_per_epoch // math.gcd(executions_per_epoch, num_turns)
    return unit * max(1, round(wanted / unit))
