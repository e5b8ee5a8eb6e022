"""`model.initial_weights`: weights of an earlier training to begin with, from a file of Keras's or from a run."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import h5py
import keras

from hvdtrain.errors import CorruptError, NotFoundError, UserCodeError
from hvdtrain.rundir import RunDir
from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.compat import to_array
from hvdtrain.train.job import Job
from hvdtrain.train.state import restore

KEY = "model.initial_weights"


def load(job: Job, model: keras.Model) -> None:
    """Put the configured weights into rank 0's model; the others get them when ranks are brought to one state.

    Raises:
        NotFoundError: If there is nothing of that name.
        UserCodeError: If the weights are those of another model.
        CorruptError: If a checkpoint is damaged.
    """
    given = job.plan.config["model"]["initial_weights"]
    if given is None or job.comm.rank != 0:
        return
    path = job.folder / given
    if not path.exists():
        raise NotFoundError(f"{KEY}: {path} does not exist")
    if path.is_dir():
        found = _from_directory(path)
        _put(model, found, path)
    elif path.name.endswith((".keras", ".weights.h5")):
        _load_file(model, path)
    else:
        allowed = "a .keras or .weights.h5 file, a run directory, or a checkpoint in one"
        raise UserCodeError(f"{KEY}: {path} must be {allowed}")
    job.console.say(f"initial weights: {path}")


def _from_directory(path: Path) -> Checkpoint:
    if (path / "manifest.json").is_file():
        return checkpoint.load(path)
    found = checkpoint.load_newest(RunDir(path).checkpoints)[0] if RunDir(path).plan.is_file() else None
    if found is None:
        raise NotFoundError(f"{KEY}: {path} is neither a checkpoint nor a run that has one")
    return found


def _put(model: keras.Model, found: Checkpoint, path: Path) -> None:
    try:
        restore(model, found, with_optimizer=False, with_seeds=False)
    except CorruptError as error:
        raise UserCodeError(f"{KEY}: {path}: {error}") from error


def _load_file(model: keras.Model, path: Path) -> None:
    """Load a file of Keras's, after a look at every shape in it: Keras takes what it knows by name and drops the rest.

    Raises:
        UserCodeError: If it holds other weights than the model has.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.weights.h5"
        model.save_weights(own)
        expected = _shapes(own)
    try:
        found = _shapes(path)
        _compare(found, expected)
        before = [(variable, to_array(variable).copy()) for variable in model.optimizer.variables]
        model.load_weights(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserCodeError(f"{KEY}: {path} does not fit the model: {error}") from error
    for variable, value in before:  # Keras takes the optimizer's count of steps from the file as well
        variable.assign(value)


def _compare(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    differing = [
        f"{name} has shape {found.get(name, 'none')} in the file and {expected.get(name, 'none')} in the model"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError("; ".join(differing[:3]) + more)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight in a .weights.h5 file, or in that inside a .keras file."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, item: object) -> None:
        is_weight = not name.startswith(("optimizer/", "metrics/")) and "/seed_generator/" not in name
        if isinstance(item, h5py.Dataset) and is_weight:
            shapes[name] = tuple(item.shape)

    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            source: object = io.BytesIO(archive.read("model.weights.h5"))
    else:
        source = path
    with h5py.File(source, "r") as file:
        file.visititems(note)
    return shapes
