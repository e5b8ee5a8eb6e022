"""A checkpoint as a file for plain Keras or TensorFlow: whole or not there, and without anything of hvdtrain in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from hvdtrain.errors import NoSpaceError
from hvdtrain.rundir import NO_SPACE
from hvdtrain.train import compat, user_code
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.demo import write_page
from hvdtrain.train.durable import fsync_path
from hvdtrain.train.job import Job, build, compile_model, load
from hvdtrain.train.restored import require_checkpoint
from hvdtrain.train.state import restore_final
from hvdtrain.train.sync_batch_norm import SyncBatchNormalization

WRITERS: dict[str, Callable[[keras.Model, Path], Any]] = {
    "keras": lambda model, path: model.save(path),
    "weights": lambda model, path: model.save_weights(path),
    "savedmodel": lambda model, path: model.export(path, verbose=False),
    "html": write_page,
}


def export(job: Job, *, kind: str, output: Path) -> dict[str, Any]:
    """Write the newest valid checkpoint of a run, and return path, form, step, parameters and notes.

    The model is not compiled, so no optimizer, schedule or loss has to be known where it is loaded.

    Raises:
        NotFoundError: If there is no checkpoint yet.
        NoSpaceError: If the disk is full; what was there before stays.
    """
    found = require_checkpoint(job)
    keras.mixed_precision.set_dtype_policy(job.plan.config["training"]["precision"])
    model = final_model(job, found)
    write(model, kind, output)
    own = sorted({_class_of(layer) for layer in compat.all_layers(model) if not _is_of_keras(layer)})
    needs = f"keras.saving.load_model needs custom_objects for {', '.join(own)}"
    return {
        "path": str(output),
        "format": kind,
        "step": found.step,
        "parameters": model.count_params(),
        "notes": [needs] if own and kind == "keras" else [],
    }


def final_model(job: Job, found: Checkpoint) -> keras.Model:
    """Return the model, not compiled, with the weights that training would have ended with at this checkpoint."""
    trained = new_model(job)
    compile_model(trained, job.plan, job.comm, job.folder)
    restore_final(trained, found)
    model = new_model(job)
    model.set_weights(trained.get_weights())
    for layer in compat.all_layers(model):
        if isinstance(layer, SyncBatchNormalization):
            layer.__class__ = keras.layers.BatchNormalization  # the same in inference, and plain Keras can load it
    return model


def new_model(job: Job) -> keras.Model:
    """Return the user's model; the data are loaded only if it has no weights without them."""
    config = job.plan.config["model"]
    model = user_code.build_model(config["source"], job.folder, config["args"])
    return model if compat.is_built(model) else build(job, load(job))


def write(model: keras.Model, kind: str, output: Path) -> None:
    """Write a model under a temporary name beside its place, then put it there.

    Raises:
        NoSpaceError: If the disk is full.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{os.getpid()}-{output.name}")  # Keras asks for the right ending
    replaced = output.with_name(f".{os.getpid()}-replaced")
    try:
        WRITERS[kind](model, temporary)
        for path in [temporary, *temporary.rglob("*")]:
            fsync_path(path)
        if output.is_dir():  # a rename replaces a file, but not a directory that holds something
            os.rename(output, replaced)
        os.rename(temporary, output)
        fsync_path(output.parent)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"{output}: no space left to write it; nothing was replaced") from error
        raise
    finally:
        _remove(temporary)
        _remove(replaced)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


def _class_of(layer: keras.layers.Layer) -> str:
    return f"{type(layer).__module__}.{type(layer).__name__}"
