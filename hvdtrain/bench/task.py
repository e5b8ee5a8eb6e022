"""What one benchmark worker is asked to do, as a JSON file. Standard library only: driver and workers share it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

MODELS = ("cnn", "fc512", "fc64")
TITLES = {"cnn": "CNN, 2 convolutions", "fc512": "FC 512-512", "fc64": "FC 64-64"}
NUM_EXAMPLES = 60_000
INPUTS = {
    "records": "TFRecord files",
    "images": "PNG files that have all been decoded before",
    "images each time": "PNG files, decoded in every epoch",
    "tf.data": "a tf.data pipeline that shuffles arrays",
}
EPOCH_STEPS = 234  # MNIST's at 256 examples a step, before rounding to whole executions
MIN_WARMUP_STEPS = 40


@dataclass(frozen=True)
class Task:
    """One launch of one arm.

    Args:
        kind: `hvdtrain`, `hvdtrain unchecked`, `hvdtrain keras update`, `hvdtrain saving`, `hvdtrain curves`,
            `hand-written`, `ceiling`, `one process`, `mirrored` or `torch`.
        models: Trained one after another.
        seconds: Wanted length of each turn.
        batch_size: Examples per rank and step.
        steps_per_execution: Steps per call into TensorFlow.
        num_ranks: Processes that meet.
        directory: Where they meet and leave their results.
        num_turns: Timed turns of each model.
        steps_per_save: Steps between two checkpoints, where they are measured; epochs are then two of these long.
        num_devices: Of one process under MirroredStrategy.
        data: `memory`: arrays. Else one of `INPUTS`: how the same number of pictures is read.
        files: Folder with these pictures.
    """

    kind: str
    models: tuple[str, ...]
    seconds: float
    batch_size: int
    steps_per_execution: int
    num_ranks: int
    directory: str
    num_turns: int = 1
    steps_per_save: int | None = None
    num_devices: int = 1
    data: str = "memory"
    files: str = ""

    @property
    def path(self) -> Path:
        """The file this task is written to."""
        return Path(self.directory, "task.json")

    def write(self) -> None:
        """Leave the task for the workers."""
        self.path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Task:
        """Return the task that `write` left."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**data, "models": tuple(data["models"])})


def steps_per_epoch(
    *, batch_size: int, num_ranks: int, steps_per_execution: int, steps_per_save: int | None = None
) -> int:
    """Return the steps of one epoch: whole executions only, and no more than the data hold.

    >>> steps_per_epoch(batch_size=128, num_ranks=2, steps_per_execution=20)
    220
    >>> steps_per_epoch(batch_size=128, num_ranks=2, steps_per_execution=25, steps_per_save=50)
    100
    """
    most = NUM_EXAMPLES // (batch_size * num_ranks)
    if steps_per_save:
        if steps_per_save % steps_per_execution or 2 * steps_per_save > most:
            raise ValueError(
                f"{steps_per_save} steps between checkpoints must be whole executions of {steps_per_execution} steps, "
                f"and two of them an epoch of at most {most} steps"
            )
        return 2 * steps_per_save
    num_executions = min(EPOCH_STEPS, most) // steps_per_execution
    if num_executions == 0:
        raise ValueError(
            f"{NUM_EXAMPLES} examples cannot fill {steps_per_execution} steps of {batch_size} x {num_ranks}; "
            "use a smaller batch or fewer steps per execution"
        )
    return num_executions * steps_per_execution
