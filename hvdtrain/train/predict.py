"""Predictions of a run's newest checkpoint for a file of inputs, by all ranks together, in the file's order."""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hvdtrain.csv_table import read_table
from hvdtrain.errors import NoSpaceError, UserCodeError
from hvdtrain.rundir import NO_SPACE
from hvdtrain.train import inference, user_code
from hvdtrain.train.agree import agreed
from hvdtrain.train.durable import fsync_path
from hvdtrain.train.export import final_model
from hvdtrain.train.job import Job
from hvdtrain.train.restored import require_checkpoint


def predict(job: Job, source: Path, output: Path, header: str) -> dict[str, Any]:
    """Write what the newest valid checkpoint makes of the inputs; return path, rows, step and notes. A collective.

    Args:
        job: Its ranks may be others than trained.
        source: Inputs: .npy, .npz or .csv.
        output: .npy: the outputs as they are. .csv: a class, or a number, for each row, counted from 1.
        header: The CSV file's first line.

    Raises:
        NotFoundError: If there is no checkpoint yet.
        UserCodeError: If the inputs do not fit the model, or the outputs do not fit a CSV file.
        NoSpaceError: If the disk is full; what was there before stays.
    """
    found = require_checkpoint(job)
    keras.mixed_precision.set_dtype_policy(job.plan.config["training"]["precision"])
    model = agreed(job.comm, lambda: final_model(job, found))
    inputs = agreed(job.comm, lambda: read_inputs(job, model, source))
    rows = inference.predict(model, inputs, job.comm, batch_size=job.plan.batch_size_per_replica, on_all_ranks=False)
    if job.comm.rank == 0:
        write(output, content(rows, output, Kind.of(job.plan.config), header))
    return {
        "path": str(output),
        "rows": user_code.count(inputs),
        "step": found.step,
        "notes": ["the run was trained on made-up data (stand_in)"] if found.state.get("stand_in") else [],
    }


def read_inputs(job: Job, model: keras.Model, source: Path) -> Any:
    """Return what a file holds as the model takes it.

    Raises:
        UserCodeError: If the file cannot be read, or does not fit the model.
    """
    arrays = read_arrays(source)
    make = job.plan.config["data"].get("inputs")  # not in plans of earlier versions
    if make is not None:
        arrays = made_inputs(user_code.import_function(make, job.folder), arrays, source)
    elif source.suffix == ".csv":
        arrays = in_shape(arrays, model, source)
    if not user_code.count(arrays):
        raise UserCodeError(f"{source}: holds no row")
    user_code.require_fit(model, arrays, str(source))
    return arrays


def made_inputs(make: Callable[[Any], Any], arrays: Any, source: Path) -> Any:
    """Return what the function of `data.inputs` makes of a file's arrays.

    Raises:
        UserCodeError: Naming the file, if the function says that it does not fit.
    """
    try:
        return make(arrays)
    except UserCodeError as error:
        raise UserCodeError(f"{source}: {error}") from error


def read_arrays(source: Path) -> Any:
    """Return a file's array, or its arrays by name.

    Raises:
        UserCodeError: If it is none of the three kinds, or holds Python objects.
    """
    if source.suffix == ".csv":
        return read_table(source).rows
    try:
        loaded = np.load(source, mmap_mode="r", allow_pickle=False)
        if source.suffix == ".npy":
            return loaded
        with loaded as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserCodeError(f"{source}: is no file of NumPy arrays: {str(error).splitlines()[0]}") from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def in_shape(rows: np.ndarray, model: keras.Model, source: Path) -> np.ndarray:
    """Return rows of numbers in the shape the model's examples have.

    Raises:
        UserCodeError: If they have another number of values.
    """
    found = getattr(model, "input_shape", None)  # subclassed models have none, and several inputs make a list
    if found is None:
        return rows
    shape = found[1:] if isinstance(found, tuple) else ()
    if None in shape or math.prod(shape) != rows.shape[1]:
        raise UserCodeError(
            f"{source}: has {rows.shape[1]} columns, and the model takes examples of shape {tuple(shape)}; data.inputs "
            "may name a function that makes the one of the other"
        )
    return rows.reshape(-1, *shape)


@dataclass(frozen=True)
class Kind:
    """How outputs are to be understood: by the loss they were trained with.

    Args:
        loss: As configured, in lower case.
        from_logits: Whether outputs are before the sigmoid or softmax.
    """

    loss: str
    from_logits: bool = False

    @property
    def is_yes_or_no(self) -> bool:
        """Whether each output answers a question of its own."""
        return self.loss == "bce" or ("binary" in self.loss and "crossentropy" in self.loss)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Kind:
        """Return that of a run's configuration."""
        return cls(config["loss"].lower(), bool(config["loss_args"].get("from_logits")))


def content(outputs: Any, output: Path, kind: Kind, header: str) -> bytes:
    """Return what the file will hold.

    Raises:
        UserCodeError: If the outputs do not fit it.
    """
    if not isinstance(outputs, np.ndarray):
        raise UserCodeError("a model with several outputs cannot be written to one file; use hk.predict in a script")
    if output.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, outputs)
        return buffer.getvalue()
    answers = answers_of(outputs, kind)
    lines = [header, *(f"{number},{answer}" for number, answer in enumerate(answers, 1))]
    return ("\n".join(lines) + "\n").encode()


def answers_of(outputs: np.ndarray, kind: Kind) -> list[int] | list[float]:
    """Return one answer for each row: the likeliest class, 1 for a yes, or the number.

    Raises:
        UserCodeError: If a row has several numbers that are no classes.

    >>> answers_of(np.array([[0.1, 0.9], [0.8, 0.2]]), Kind("sparse_categorical_crossentropy"))
    [1, 0]
    >>> answers_of(np.array([[0.4], [0.6]]), Kind("binary_crossentropy"))
    [0, 1]
    >>> answers_of(np.array([[-0.1], [0.4]]), Kind("binary_crossentropy", from_logits=True))
    [0, 1]
    """
    if outputs.ndim == 2 and outputs.shape[1] > 1 and "crossentropy" in kind.loss and not kind.is_yes_or_no:
        return [int(answer) for answer in outputs.argmax(axis=1)]
    if outputs.size != len(outputs):
        raise UserCodeError(
            f"outputs of shape {outputs.shape[1:]} under the loss {kind.loss} are no single answer for each row, which "
            "a CSV file takes; use --output NAME.npy"
        )
    flat = outputs.reshape(-1)
    if kind.is_yes_or_no:
        return [int(yes) for yes in flat > (0.0 if kind.from_logits else 0.5)]
    return [float(f"{one:.7g}") for one in flat]


def write(output: Path, text: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        NoSpaceError: If the disk is full.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text)
        fsync_path(temporary)
        os.replace(temporary, output)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"{output}: no space left to write it; nothing was replaced") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
