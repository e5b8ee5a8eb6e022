"""A step whose averaged gradients are not finite: stop all ranks at it, or say how many were skipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from hvdtrain.errors import OutOfSyncError
from hvdtrain.train import compat
from hvdtrain.train.comm import Comm
from hvdtrain.train.nonfinite import Found
from hvdtrain.train.optimizer import Reduction, reduction_of
from hvdtrain.train.sync import nonfinite_error, nonfinite_names


class Finite(keras.callbacks.Callback):
    """Read what the training step noted. Place it before every callback that writes a file.

    All ranks see the same averages, so all of them read the same step, and no check costs a message.

    Args:
        comm: The ranks.
        say: Tells people how many updates an epoch has skipped; None for silence.
    """

    def __init__(self, comm: Comm, say: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self._comm = comm
        self._say = say or (lambda text: None)
        self.num_skipped = 0

    @property
    def _reduction(self) -> Reduction | None:
        return reduction_of(self.model)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget an earlier fit."""
        self.num_skipped = 0
        if self._reduction is not None:
            self._reduction.watch.forget()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember statistics and totals as they are now, after all others have put theirs in."""
        if self._reduction is not None:
            self._reduction.shadows.take()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop if a step of this execution was bad.

        Raises:
            OutOfSyncError: On all ranks alike.
        """
        reduction = self._reduction
        if reduction is None:
            self._look_at_weights((logs or {}).get("loss", 0.0))
        elif not reduction.skips:
            found = reduction.watch.found()
            if found is not None:
                raise self._error(found)

    def _look_at_weights(self, loss: Any) -> None:
        """Under MirroredStrategy, which averages by itself: the loss is the sign to look at everything."""
        if self._comm.size == 1 and not math.isfinite(float(loss)):
            names = nonfinite_names(self.model)
            if names:
                raise nonfinite_error(compat.steps_taken(self.model), names)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Say what was skipped.

        Raises:
            OutOfSyncError: On all ranks alike, if it was every update of the epoch.
        """
        reduction = self._reduction
        found = reduction.watch.found() if reduction is not None and reduction.skips else None
        if reduction is None or found is None:
            return
        num_steps = reduction.watch.num_steps
        reduction.watch.forget()
        self.num_skipped += num_steps
        if num_steps >= (self.params.get("steps") or 2**62):
            raise self._error(found)
        self._say(
            f"skipped {num_steps} update{'s' if num_steps > 1 else ''} because of values that are not finite; "
            f"the first: step {found.step}, {self._whose(found)[0]}"
        )

    def _error(self, found: Found) -> OutOfSyncError:
        return nonfinite_error(found.step, self._whose(found))

    def _whose(self, found: Found) -> list[str]:
        """Return what was not finite on which rank, causes before what follows from them. A collective."""
        by_rank = self._comm.gather_json({"state": found.state, "own": found.own}, name="nonfinite")
        return (
            on_ranks([entry["state"] for entry in by_rank])
            or on_ranks([entry["own"] for entry in by_rank])
            or [f"the mean over ranks of {name}" for name in found.means]  # each rank's own is finite
        )


def on_ranks(by_rank: list[list[str]]) -> list[str]:
    """Return names with their ranks, the first of each rank before the second of any.

    >>> on_ranks([["w", "b"], [], ["w"]])
    ['w on rank 0', 'w on rank 2', 'b on rank 0']
    """
    ranked = [(place, rank, name) for rank, names in enumerate(by_rank) for place, name in enumerate(names)]
    return [f"{name} on rank {rank}" for _, rank, name in sorted(ranked)]
