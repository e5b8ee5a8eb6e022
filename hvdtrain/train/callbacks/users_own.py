"""The user's own callbacks under several ranks: writers on rank 0 only, and what they restore on all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.sync import broadcast_state

# These write files; on other ranks they would write the same file again, at the same time.
WRITERS = tuple(
    getattr(keras.callbacks, name)
    for name in (
        "BackupAndRestore",
        "CSVLogger",
        "ModelCheckpoint",
        "OrbaxCheckpoint",
        "ProgbarLogger",
        "RemoteMonitor",
        "TensorBoard",
    )
    if hasattr(keras.callbacks, name)
)


def on_this_rank(callbacks: Iterable[keras.callbacks.Callback], comm: Comm) -> list[keras.callbacks.Callback]:
    """Return the callbacks that run on this rank: all on rank 0, all but the writers elsewhere."""
    every = list(flat(callbacks))
    mine = [callback for callback in every if comm.rank == 0 or not isinstance(callback, WRITERS)]
    restores = any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in every)
    return [*mine, FollowRank0(comm)] if restores else mine


def flat(callbacks: Iterable[keras.callbacks.Callback]) -> Iterator[keras.callbacks.Callback]:
    """Yield the callbacks inside lists of them."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CallbackList):
            yield from flat(callback.callbacks)
        elif isinstance(callback, list | tuple):
            yield from flat(callback)
        else:
            yield callback


def check_callbacks(callbacks: Iterable[keras.callbacks.Callback], *, saves: bool, resumes: bool) -> None:
    """Raise where the user's callbacks and hvdtrain's checkpoints would undo each other.

    Raises:
        UserCodeError: If both restore, or a checkpoint would hold averaged weights in place of those of training.
    """
    for callback in flat(callbacks):
        if resumes and isinstance(callback, keras.callbacks.BackupAndRestore):
            raise UserCodeError(
                "BackupAndRestore and resume=True would both restore the model; leave BackupAndRestore out: "
                "checkpoint_dir with resume=True does the same, on all ranks"
            )
        if saves and isinstance(callback, keras.callbacks.SwapEMAWeights) and callback.swap_on_epoch:
            raise UserCodeError(
                "SwapEMAWeights(swap_on_epoch=True) leaves the averaged weights in the model when checkpoint_dir saves "
                "it, and training could not go on from there; use SwapEMAWeights() (evaluation still sees the average)"
            )


class FollowRank0(keras.callbacks.Callback):
    """Give all ranks the state and the first epoch that rank 0's BackupAndRestore found. Place it after that one."""

    def __init__(self, comm: Comm) -> None:
        super().__init__()
        self._comm = comm

    def on_train_begin(self, logs: Any = None) -> None:
        """Follow."""
        broadcast_state(self.model, self._comm)
        # Keras reads it after this, in place of fit's initial_epoch.
        self.model._initial_epoch = self._comm.gather_json(self.model._initial_epoch, name="initial_epoch")[0]
