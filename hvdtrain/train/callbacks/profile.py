"""A profile of some of rank 0's steps for TensorBoard's profile plugin; `timeline` has all ranks and words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hvdtrain.train import recording
from hvdtrain.train.callbacks.step_window import StepWindow


class Profile(StepWindow):
    """Record rank 0; the other ranks wait for it while it writes.

    Args:
        folder: Of one of TensorBoard's runs.
        first, last: Steps, see `StepWindow`.
        steps_per_execution: Steps between two looks.
        say: Takes words for people.
    """

    def __init__(
        self, folder: Path, *, first: int, last: int, steps_per_execution: int, say: Callable[[str], None]
    ) -> None:
        def too_late(why: str) -> None:
            say(f"warning: no profile: {why}; choose earlier tensorboard.profile_steps")

        super().__init__(first=first, last=last, steps_per_execution=steps_per_execution, too_late=too_late)
        self._folder = folder
        self._say = say

    def begin(self) -> None:
        """Begin to record."""
        recording.start(self._folder)

    def end(self, num_steps: int) -> None:
        """Write what was recorded."""
        recording.write()
        plugin = "tensorboard-plugin-profile"
        self._say(f"profile of {num_steps} steps of rank 0 written; TensorBoard shows it with pip install {plugin}")
