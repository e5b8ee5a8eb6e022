"""Whether a job is told early enough that it must stop: a save and an evaluation, as measured, must fit in."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras


class LeadTime(keras.callbacks.Callback):
    """Warn once if the lead time of a batch job is too short.

    Args:
        lead_s: Seconds before the limit at which the job is told.
        say: Takes words for people.
    """

    def __init__(self, lead_s: float, say: Callable[[str], None]) -> None:
        super().__init__()
        self._lead_s = lead_s
        self._say = say
        self._has_said = False
        self._save_began = self._test_began = 0.0
        self._save_s = self._test_s = 0.0

    def save_begins(self) -> None:
        """Note when a save begins."""
        self._save_began = time.monotonic()

    def save_ends(self) -> None:
        """Note when it is on the disk; called in the writing thread."""
        self._save_s = max(self._save_s, time.monotonic() - self._save_began)

    def on_test_begin(self, logs: Any = None) -> None:
        """Note when an evaluation begins."""
        self._test_began = time.monotonic()

    def on_test_end(self, logs: Any = None) -> None:
        """Note how long it took."""
        self._test_s = max(self._test_s, time.monotonic() - self._test_began)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare."""
        needed_s = self._save_s + self._test_s
        if self._has_said or needed_s <= self._lead_s:
            return
        self._has_said = True
        self._say(
            f"warning: slurm.stop_lead_s {self._lead_s:g} is too short: a save takes {self._save_s:.1f} s and an "
            f"evaluation {self._test_s:.1f} s, so the job may be killed before it has saved; give at least "
            f"{needed_s + 60:.0f}"
        )
