"""For people who keep their own training script: four lines turn it into a distributed one.

    import hvdtrain.keras as hk
    world = hk.init()
    model.compile(optimizer=hk.DistributedOptimizer(opt), ...)
    model.fit(hk.shard(dataset), callbacks=hk.callbacks([...], checkpoint_dir="ckpt"), verbose=world.verbose)

Start it with `hvdtrain run --ranks N -- python script.py`, or with mpirun, srun or horovodrun. Started by itself it
trains on one process as before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from hvdtrain import scaling
from hvdtrain.errors import EnvironmentNotFitError, UserCodeError
from hvdtrain.train import checkpoint as _checkpoint
from hvdtrain.train import data as _data
from hvdtrain.train.callbacks import (
    AgreeStop,
    GlobalMetrics,
    Memory,
    Resume,
    Saver,
    Setup,
    SyncProof,
    on_this_rank,
)
from hvdtrain.train.failure import install_excepthook
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.schedule import ScaledSchedule
from hvdtrain.train.state import restore
from hvdtrain.train.world import World, wake_up

__all__ = [
    "DistributedOptimizer",
    "World",
    "callbacks",
    "init",
    "initial_epoch",
    "scaled_learning_rate",
    "shard",
]

_world: World | None = None


def init() -> World:
    """Join the ranks that the launcher started, and return who this process is.

    Binds cores, pins the GPU, and checks the launcher's world against Horovod's. Call it once, before any
    TensorFlow operation; a second call returns the same world.

    Raises:
        EnvironmentNotFitError: If ranks and launcher disagree, Horovod does not import, or Keras runs on another
            backend than TensorFlow.
    """
    global _world
    if _world is None:
        if keras.backend.backend() != "tensorflow":
            raise EnvironmentNotFitError(
                f"Keras runs on {keras.backend.backend()}; Horovod needs TensorFlow: set KERAS_BACKEND=tensorflow"
            )
        _world = wake_up(os.environ)
        if _world.size > 1:
            install_excepthook(_world.rank)
    return _world


def _require_world() -> World:
    if _world is None:
        raise UserCodeError("call hk.init() first, before the model is built")
    return _world


def DistributedOptimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:  # noqa: N802
    """Turn a Keras optimizer into one that averages gradients over all ranks, in place, and return it.

    The name is Horovod's. Averaging comes before clipping, weight decay and moving averages of the optimizer; with
    gradient accumulation it comes once per update. Under the policy mixed_float16 it returns a LossScaleOptimizer
    around the given one.

    Raises:
        UserCodeError: Before `init`, for a second wrapping, and inside a LossScaleOptimizer.
    """
    return distribute(optimizer, _require_world().comm)


def shard(dataset: Any) -> Any:
    """Return this rank's part of a `tf.data.Dataset`: disjoint from the others', as many elements on every rank.

    Elements are dealt out in turn; if the dataset is batched, whole batches are. What does not go round is left
    out. Shuffle with a seed before, or without one after.

    Raises:
        UserCodeError: If the cardinality is unknown, the dataset is shuffled without a seed, or ranks differ.
    """
    world = _require_world()
    part = _data.shard(dataset, rank=world.rank, size=world.size)
    _data.check_same_everywhere(dataset, world.comm)
    return part


def callbacks(
    user_callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    save_every_steps: int | None = None,
    check_every_steps: int | None = 200,
    keep: int = 3,
    resume: bool = False,
) -> list[keras.callbacks.Callback]:
    """Return your callbacks with those around them that keep ranks together.

    All ranks start from rank 0's state, logs hold global values before your callbacks see them, writers run on
    rank 0 only, all ranks stop when one does, and replicas are compared bit by bit.

    Args:
        user_callbacks: Your own, in their order.
        checkpoint_dir: Where rank 0 saves after each epoch; None saves nothing.
        save_every_steps: Steps between two further saves within an epoch.
        check_every_steps: Steps between two comparisons of all replicas; None for each epoch's end only.
        keep: Checkpoints that stay.
        resume: Start from the newest checkpoint in `checkpoint_dir`, in the middle of an epoch if it was saved there,
            with what EarlyStopping, ReduceLROnPlateau and ModelCheckpoint remembered; pass
            `initial_epoch=hk.initial_epoch(...)` to fit, and batches in the order of the first start.

    Raises:
        UserCodeError: Before `init`, or for `resume` without `checkpoint_dir`.
        CorruptError: If checkpoints exist and none of them is valid.
    """
    comm = _require_world().comm
    if resume and checkpoint_dir is None:
        raise UserCodeError("resume=True needs checkpoint_dir")
    root = Path(checkpoint_dir) if checkpoint_dir is not None else None
    found = _checkpoint.load_newest(root)[0] if resume and root is not None else None
    proof = SyncProof(comm, check_every_steps)
    memory = Memory(user_callbacks, found)
    saver = []
    if root is not None:
        often = save_every_steps
        saver = [Saver(comm, root, every_steps=often, prove=proof.check, keep=keep, found=found, memory=memory)]
    return [
        Setup(comm, restore=(lambda model: restore(model, found)) if found else None),
        *([Resume(comm, found)] if found else []),
        GlobalMetrics(comm),
        *on_this_rank(list(user_callbacks), comm),
        memory,
        proof,
        *saver,
        AgreeStop(comm),
    ]


def initial_epoch(checkpoint_dir: str | os.PathLike[str]) -> int:
    """Return the epochs that the newest valid checkpoint has behind it; 0 without one."""
    found, _ = _checkpoint.load_newest(Path(checkpoint_dir))
    return int(found.state["epochs_done"]) if found else 0


def scaled_learning_rate(
    learning_rate: float,
    *,
    rule: str = "linear",
    warmup_steps: int = 0,
) -> Any:
    """Return the learning rate for this world: scaled, and warmed up from the one-rank rate if asked.

    Args:
        learning_rate: The rate for one rank.
        rule: `none`, `sqrt` or `linear`.
        warmup_steps: Optimizer steps from `learning_rate` up to the scaled rate; 0 starts there at once.

    Returns:
        A number, or a Keras learning rate schedule with warm-up.

    Raises:
        UserCodeError: Before `init`, or for an unknown rule.
    """
    if rule not in ("none", "sqrt", "linear"):
        raise UserCodeError(f"rule must be 'none', 'sqrt' or 'linear'; got {rule!r}")
    scaled = learning_rate * scaling.scale_factor(rule, _require_world().size)
    if not warmup_steps:
        return scaled
    return ScaledSchedule("constant", learning_rate, scaled, warmup_steps, warmup_steps, {})
