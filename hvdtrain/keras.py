"""For people who keep their own training script: four lines turn it into a distributed one.

    import hvdtrain.keras as hk
    world = hk.init()
    model.compile(optimizer=hk.DistributedOptimizer(opt), ...)
    model.fit(hk.shard(dataset), callbacks=hk.callbacks([...], checkpoint_dir="ckpt"), verbose=world.verbose)

Start it with `hvdtrain run --ranks N -- python script.py`, or with mpirun, srun or horovodrun. Started by itself it
trains on one process as before.
"""

# ruff: noqa: E402  the environment and load_keras come before Keras
from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from hvdtrain.train.loading import load_keras

load_keras()

import keras
import numpy as np

from hvdtrain import scaling
from hvdtrain.errors import EnvironmentNotFitError, UserCodeError
from hvdtrain.launch.rank import rank_info
from hvdtrain.train import checkpoint as _checkpoint
from hvdtrain.train import data as _data
from hvdtrain.train import inference as _inference
from hvdtrain.train import stage as _stage
from hvdtrain.train.callbacks import (
    AgreeStop,
    Finite,
    GlobalMetrics,
    Memory,
    Resume,
    Saver,
    Setup,
    SyncProof,
    TellEpoch,
    WeighUneven,
    check_callbacks,
    flat,
    on_this_rank,
)
from hvdtrain.train.comm import Comm, joined
from hvdtrain.train.exchange import Exchange
from hvdtrain.train.failure import install_excepthook
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.records import tfrecords
from hvdtrain.train.schedule import ScaledSchedule
from hvdtrain.train.state import restore
from hvdtrain.train.stored import image_folder
from hvdtrain.train.sync_batch_norm import SyncBatchNormalization
from hvdtrain.train.world import World, wake_up

__all__ = [
    "DistributedOptimizer",
    "SyncBatchNormalization",
    "World",
    "callbacks",
    "evaluate",
    "evaluation_part",
    "image_folder",
    "init",
    "initial_epoch",
    "predict",
    "scaled_learning_rate",
    "shard",
    "stage",
    "tfrecords",
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


def _require_whole(least: int, **values: Any) -> None:
    for name, value in values.items():
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is not None and not (is_whole and value >= least):
            raise UserCodeError(f"{name} must be a whole number, {least} or more; got {value!r}")


def DistributedOptimizer(  # noqa: N802
    optimizer: keras.optimizers.Optimizer,
    *,
    on_nonfinite: str = "stop",
    compression: str = "none",
    op: str = "average",
    num_groups: int | None = None,
) -> keras.optimizers.Optimizer:
    """Turn a Keras optimizer into one that averages gradients over all ranks, in place, and return it.

    The name is Horovod's. Averaging comes before clipping, weight decay and moving averages of the optimizer; with
    gradient accumulation it comes once per update. Under the policy mixed_float16 it returns a LossScaleOptimizer
    around the given one.

    Args:
        optimizer: Yours.
        on_nonfinite: `stop`: all ranks stop at a step whose averaged gradients hold NaN or infinity; `skip`: all of
            them leave the update out and go on.
        compression: `none`, or `fp16`: dense gradients travel in half precision, with its rounding.
        op: `average`, or `adasum` (Maleki et al. 2021): not the gradient of the global batch, so results differ from
            those of one process, and the learning rate is not to be scaled linearly. Ranks must be a power of two.
        num_groups: Cut the gradients into this many collectives that can leave early; None: one for all.

    Raises:
        UserCodeError: Before `init`, for a second wrapping, inside a LossScaleOptimizer, for a value that is not one
            of these, for `skip` with accumulated gradients, and for Adasum over a number of ranks that is no power of
            two or with scaled losses.
    """
    exchange = Exchange(compression, op, num_groups)
    return distribute(optimizer, _require_world().comm, exchange, on_nonfinite=on_nonfinite)


def shard(
    data: Any,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    remainder: str = "drop",
    length: int | None = None,
) -> Any:
    """Return this rank's part of the training data: disjoint from the others', as many steps on every rank.

    - Arrays - (x, y), (x, y, sample weights), with tuples and dicts of arrays in place of one - become a
      `tf.data.Dataset` of batches. Their order follows from the seed and the epoch, not from the number of ranks;
      tell `callbacks` about them with `data=`.
    - The elements of a `tf.data.Dataset` (batches, if it is batched) and the batches of a PyDataset are dealt out in
      turn. What does not go round is left out. Shuffle with a seed before, or without one after.
    - A generator function is run on every rank, which keeps its own share of the batches.

    Args:
        data: The same on every rank.
        batch_size: Arrays only: examples of one rank in a step.
        seed: Arrays only: decides their order.
        remainder: Arrays only: `drop` what does not fill a global batch, or `pad`: use it, each example with its
            weight.
        length: Elements in an epoch, for a generator function and a dataset of unknown cardinality. One that ends
            earlier stops all ranks.

    Raises:
        UserCodeError: If the data cannot be cut so, are fewer than the ranks, or differ between ranks.
    """
    _require_whole(1, batch_size=batch_size, length=length)
    _require_whole(0, seed=seed)
    comm = _require_world().comm
    return _data.training_part(data, comm, batch_size=batch_size, seed=seed, remainder=remainder, length=length)


def stage(files: Any, *, to: str = "auto", keep: bool = True) -> Any:
    """Copy data from the shared file system to each node's own disk, and return where they are there.

    Each byte is read from the shared file system once per job: every rank reads an even share of all bytes and sends it
    to the other nodes, whose ranks share one copy. Files that are there already, by size and time of change, are not
    read again. Call it on every rank, in a script after `init`, or in the data function of a configuration.

        folder = hk.stage("/project/images")
        return hk.image_folder(folder / "train"), hk.image_folder(folder / "test")

    Args:
        files: A folder with all that is below it, a file, a pattern such as "train-*.tfrecord", or a list of files.
        to: A folder that each node has for itself, with variables of the environment if need be: "/scratch/$USER".
            `auto`: $SLURM_TMPDIR, $TMPDIR or /tmp, the first that there is. /dev/shm is memory.
        keep: True leaves the copy for the next start on this node, and to whoever cleans that disk. False removes it
            when the last process that uses it ends, unless that is killed.

    Returns:
        The path of the copy; for a pattern or a list, a list of paths.

    Raises:
        UserCodeError: On all ranks, if files do not exist or cannot be read, or `to` is no such folder.
        NoSpaceError: If they do not fit, before anything is copied, or the disk is full meanwhile.
        HvdtrainError: If a file changes meanwhile.
        CorruptError: If what arrived or was written is not what was read.
    """
    comm = joined()
    if comm.size == 1 and rank_info(os.environ).size > 1:
        raise UserCodeError("call hk.init() before hk.stage(), or every rank would read all files by itself")
    return _stage.stage(files, comm, to=to, keep=keep)


def evaluation_part(data: Any, *, batch_size: int | None = None) -> Any:
    """Return this rank's part of validation data: `fit(..., validation_data=hk.evaluation_part((x, y)))`.

    Nothing is left out: parts differ in size, and may be empty on some ranks. The metrics that callbacks see are
    those of all data.

    Args:
        data: Arrays, a `tf.data.Dataset` or a PyDataset, the same on every rank.
        batch_size: Examples of a rank in a step: 32 for arrays; for a dataset that is not batched yet.
    """
    _require_whole(1, batch_size=batch_size)
    comm = _require_world().comm
    return _data.evaluation_part(data, batch_size=batch_size, rank=comm.rank, size=comm.size).batches


def evaluate(model: keras.Model, data: Any, *, batch_size: int | None = None) -> dict[str, float]:
    """Return the compiled loss and metrics over all of the data, each rank having evaluated its part.

    Call it on every rank; all get the same values, those of one process up to rounding.

    Args:
        model: The same on every rank, as it is after `fit`.
        data: As for `evaluation_part`: (x, y), (x, y, sample weights), a `tf.data.Dataset` or a PyDataset.
        batch_size: Examples of a rank in a step: 32 for arrays; for a dataset that is not batched yet.

    Raises:
        UserCodeError: If there is no example.
        OutOfSyncError: If ranks hold different weights.
    """
    _require_whole(1, batch_size=batch_size)
    return _inference.evaluate(model, data, _require_world().comm, batch_size=batch_size)


def predict(model: keras.Model, data: Any, *, batch_size: int | None = None, on_all_ranks: bool = True) -> Any:
    """Return the model's outputs for all of the data in their order, each rank having predicted its part.

    Call it on every rank. All predictions are held in memory wherever they are returned.

    Args:
        model: The same on every rank, as it is after `fit`.
        data: Inputs: an array, tuples or dicts of such, a `tf.data.Dataset` or a PyDataset.
        batch_size: Examples of a rank in a step: 32 for arrays; for a dataset that is not batched yet.
        on_all_ranks: False returns None on all ranks but rank 0, and spares their memory.

    Returns:
        An array, or what the model returns with arrays in it.

    Raises:
        UserCodeError: If there is no example, or an output is no array of numbers.
        OutOfSyncError: If ranks hold different weights.
    """
    _require_whole(1, batch_size=batch_size)
    comm = _require_world().comm
    return _inference.predict(model, data, comm, batch_size=batch_size, on_all_ranks=on_all_ranks)


def callbacks(
    user_callbacks: Sequence[keras.callbacks.Callback] = (),
    *,
    data: Any = None,
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
        data: The training data, if `shard` made them from arrays (and what you made from that by map and the like):
            they are told each epoch.
        checkpoint_dir: Where rank 0 saves after each epoch; None saves nothing.
        save_every_steps: Steps between two further saves within an epoch.
        check_every_steps: Steps between two comparisons of all replicas; None for each epoch's end only.
        keep: Checkpoints that stay.
        resume: Start from the newest checkpoint in `checkpoint_dir`, in the middle of an epoch if it was saved there,
            with what EarlyStopping, ReduceLROnPlateau and ModelCheckpoint remembered; pass
            `initial_epoch=hk.initial_epoch(...)` to fit, and batches in the order of the first start.

    Raises:
        UserCodeError: Before `init`, for `resume` without `checkpoint_dir`, and for callbacks that would undo what
            hvdtrain does. In fit, without `resume`: if the directory holds checkpoints of later steps than training
            starts at. In fit, resumed within an epoch: if the global batch, the seed, the number of examples or (for
            other data than arrays) that of ranks is not what the epoch began with.
        CorruptError: If checkpoints exist and none of them is valid.
    """
    _require_whole(1, save_every_steps=save_every_steps, check_every_steps=check_every_steps, keep=keep)
    comm = _require_world().comm
    if resume and checkpoint_dir is None:
        raise UserCodeError("resume=True needs checkpoint_dir")
    root = Path(checkpoint_dir) if checkpoint_dir is not None else None
    found, complaints = _checkpoint.load_newest(root) if resume and root is not None else (None, [])
    for complaint in complaints if comm.rank == 0 else []:
        warnings.warn(f"damaged checkpoint passed over: {complaint}", stacklevel=2)
    proof = SyncProof(comm, check_every_steps)
    mine = list(flat(user_callbacks))
    memory = Memory(mine, found)
    check_callbacks(mine, saves=root is not None, resumes=resume)
    facts = {
        "the checkpoint to go on from": found.step if found else None,
        "whether checkpoint_dir is given": root is not None,
        "save_every_steps": save_every_steps,
        "check_every_steps": check_every_steps,
        "whether BackupAndRestore is there": any(isinstance(one, keras.callbacks.BackupAndRestore) for one in mine),
    }
    batches = _data.batches_facts(data, comm)
    saver = []
    if root is not None:
        saver = [
            Saver(
                comm,
                root,
                every_steps=save_every_steps,
                prove=proof.check,
                keep=keep,
                state={"batches": batches},
                found=found,
                memory=memory,
            )
        ]
    return [
        Setup(comm, restore=(lambda model: restore(model, found)) if found else None, facts=facts),
        *_for_data(data, comm, steps_done=found.position[1] if found else 0),
        *([Resume(comm, found, batches)] if found else []),
        GlobalMetrics(comm),
        Finite(comm, say=print if comm.rank == 0 else None),
        *on_this_rank(mine, comm),
        memory,
        proof,
        AgreeStop(comm),
        *saver,
    ]


def _for_data(data: Any, comm: Comm, *, steps_done: int) -> list[keras.callbacks.Callback]:
    batches = _data.origin(data)
    if isinstance(batches, _data.EpochBatches):
        return [WeighUneven(comm, batches.order, steps_done=steps_done), TellEpoch(batches)]
    return []


def initial_epoch(checkpoint_dir: str | os.PathLike[str]) -> int:
    """Return the epochs that the newest valid checkpoint has behind it; 0 without one."""
    found, _ = _checkpoint.load_newest(Path(checkpoint_dir))
    return found.position[0] if found else 0


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
    _require_whole(0, warmup_steps=warmup_steps)
    scaled = learning_rate * scaling.scale_factor(rule, _require_world().size)
    if not warmup_steps:
        return scaled
    return ScaledSchedule("constant", learning_rate, scaled, warmup_steps, warmup_steps, {})
