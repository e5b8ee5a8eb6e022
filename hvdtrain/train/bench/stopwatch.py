"""The timed section: whole epochs after a warm-up, the same number on every rank."""

from __future__ import annotations

import time

from hvdtrain.bench.meeting import Meeting
from hvdtrain.bench.task import MIN_WARMUP_STEPS


class Stopwatch:
    """Leaves tracing out, chooses the number of epochs from the warm-up's speed, and times them.

    Args:
        meeting: The ranks; they begin the section together.
        seconds: Its wanted length.
        steps_per_epoch: Steps of each epoch.
    """

    def __init__(self, meeting: Meeting, *, seconds: float, steps_per_epoch: int) -> None:
        self._meeting = meeting
        self._wanted_s = seconds
        self._steps_per_epoch = steps_per_epoch
        self._traced_at = 0.0
        self._traced_steps = 0
        self._began = self._cpu_began = 0.0
        self._epochs_left = 0
        self.warmup_steps = 0
        self.timed_steps = 0
        self.timed_s = self.cpu_s = 0.0

    def execution_done(self, steps_in_epoch: int) -> None:
        """Note the end of the first execution: the tracing is over."""
        if not self._traced_at:
            self._traced_at, self._traced_steps = time.perf_counter(), steps_in_epoch

    def epoch_done(self) -> bool:
        """Count an epoch; return True when the timed section has ended."""
        now = time.perf_counter()
        if self._epochs_left:
            self._epochs_left -= 1
            if self._epochs_left == 0:
                self.timed_s, self.cpu_s = now - self._began, time.process_time() - self._cpu_began
            return self._epochs_left == 0
        self.warmup_steps += self._steps_per_epoch
        if self.warmup_steps >= max(MIN_WARMUP_STEPS, self._traced_steps + 1):
            self._begin((self.warmup_steps - self._traced_steps) / (now - self._traced_at))
        return False

    def _begin(self, steps_per_s: float) -> None:
        slowest = min(self._meeting.exchange(steps_per_s))
        self._epochs_left = max(1, round(self._wanted_s * slowest / self._steps_per_epoch))
        self.timed_steps = self._epochs_left * self._steps_per_epoch
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
