"""Checkpoints on disk: a directory that is there whole or not at all. Imports neither TensorFlow nor Keras.

    step_00001234/arrays.npz  state.json  manifest.json

Written under a temporary name in the same file system: fsync of each file, a manifest with SHA-256, fsync of the
directory, rename, fsync of the parent. Older ones are pruned only after the new one re-reads clean. The loader
trusts the manifest, never a name, and falls back to the newest checkpoint that verifies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.errors import CorruptError, NoSpaceError
from hvdtrain.rundir import NO_SPACE

FORMAT = 1
TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Args:
        step: Optimizer calls so far.
        state: Epoch, examples consumed, world size, digests: whatever JSON can hold.
        arrays: Weights, statistics, slots and seeds by name.
    """

    step: int
    state: dict[str, Any]
    arrays: dict[str, np.ndarray]


def save(root: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, verify it, prune older ones, and return its directory.

    Raises:
        NoSpaceError: If the disk is full; what was there before stays.
        CorruptError: If the new checkpoint does not read back as written.
    """
    final = root / f"step_{checkpoint.step:08d}"
    temporary = root / f"{TEMPORARY}{final.name}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write_files(temporary, checkpoint)
        replaced = root / f"{TEMPORARY}replaced-{final.name}"
        if final.exists():  # the same step again, after a resume from an older checkpoint
            os.rename(final, replaced)
        os.rename(temporary, final)
        _fsync_directory(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in NO_SPACE:
            raise NoSpaceError(
                f"{root}: no space left for the checkpoint of step {checkpoint.step}; earlier checkpoints are "
                "untouched. Free some space, or lower checkpoint.keep, then continue with --resume"
            ) from error
        raise
    verify(final)
    prune(root, keep)
    return final


def _write_files(directory: Path, checkpoint: Checkpoint) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **checkpoint.arrays)
    state = json.dumps({"format": FORMAT, "step": checkpoint.step, **checkpoint.state}, indent=1).encode()
    files: dict[str, bytes | memoryview] = {"arrays.npz": buffer.getbuffer(), "state.json": state}
    manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in [*files.items(), ("manifest.json", json.dumps(manifest, indent=1).encode())]:
        with open(directory / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _fsync_directory(directory)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CorruptError: If a file is missing or is not what was written.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        wrong = [
            name
            for name in ("arrays.npz", "state.json")
            if hashlib.sha256((directory / name).read_bytes()).hexdigest() != manifest[name]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{directory}: incomplete or unreadable ({error})") from error
    if wrong:
        raise CorruptError(f"{directory}: {', '.join(wrong)} is not what was written (SHA-256 differs)")


def load(directory: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CorruptError: If it is damaged.
    """
    verify(directory)
    state = json.loads((directory / "state.json").read_bytes())
    try:
        with np.load(directory / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise CorruptError(f"{directory}: arrays.npz cannot be read: {error}") from error
    return Checkpoint(step=state["step"], state=state, arrays=arrays)


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a sentence for each newer one that does not.

    Raises:
        CorruptError: If there are checkpoints and none of them verifies.
    """
    complaints: list[str] = []
    for directory in reversed(checkpoints(root)):
        try:
            return load(directory), complaints
        except CorruptError as error:
            complaints.append(str(error))
    if complaints:
        raise CorruptError("no valid checkpoint is left: " + "; ".join(complaints))
    return None, []


def checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint directories, oldest first."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if re.fullmatch(r"step_\d{8,}", path.name))


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and what interrupted saves left behind."""
    for directory in checkpoints(root)[:-keep]:
        shutil.rmtree(directory, ignore_errors=True)
    clear_temporary(root)


def clear_temporary(root: Path) -> None:
    """Delete what interrupted saves left behind."""
    for path in root.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def match_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a checkpoint fits the model: the same names and shapes.

    Raises:
        CorruptError: Naming what differs.
    """
    missing = [name for name in expected if name not in arrays]
    extra = [name for name in arrays if name not in expected]
    shapes = [
        f"{name} has shape {arrays[name].shape} in the checkpoint and {shape} in the model"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    problems = [f"missing {missing[:3]}"] * bool(missing) + [f"unknown {extra[:3]}"] * bool(extra) + shapes[:3]
    if problems:
        raise CorruptError(f"the checkpoint was written by another model or optimizer: {'; '.join(problems)}")
