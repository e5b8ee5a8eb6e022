"""Checkpoints on disk: a directory that is there whole or not at all. Imports neither TensorFlow nor Keras.

    step_00001234/arrays.npz  state.json  manifest.json

Written under a temporary name in the same file system: fsync of each file, a manifest with SHA-256, fsync of the
directory; read back and compared; then rename and fsync of the parent. Older ones are pruned after that. At every
moment all directories called step_* are whole. The loader trusts the manifest, never a name, and falls back to the
newest checkpoint that verifies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.errors import CorruptError, HvdtrainError, NoSpaceError
from hvdtrain.rundir import NO_SPACE
from hvdtrain.train import durable, npz

FORMAT = 1
FILES = ("arrays.npz", "state.json")
MANIFEST = "manifest.json"
TEMPORARY = ".writing-"
# A checkpoint whose place another of the same step is taking: it counts until that one is there.
ASIDE = ".replaced-"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Args:
        step: Optimizer calls so far.
        state: Epoch, steps of the next one, world size, digests: whatever JSON can hold.
        arrays: Weights, statistics, slots and seeds by name; read-only where they were loaded.
    """

    step: int
    state: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def position(self) -> tuple[int, int]:
        """Epochs done, and steps done of the next one.

        Raises:
            CorruptError: If the state does not say; it was not written by a training.
        """
        try:
            return int(self.state["epochs_done"]), int(self.state.get("steps_done", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(
                f"{_name(self.step)}/state.json: must say how many epochs are done (epochs_done, steps_done: whole "
                "numbers), and does not; it was not written by a training. Use another checkpoint"
            ) from error


def save(root: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, verify it, prune older ones, and return its directory.

    Raises:
        NoSpaceError: If the disk is full; what was there before stays.
        CorruptError: If the new checkpoint does not read back as written; what was there before stays.
    """
    final = root / _name(checkpoint.step)
    temporary = root / f"{TEMPORARY}{final.name}-{os.getpid()}"
    try:
        changed = durable.make_directory(root)
        clear_temporary(root)
        _write_files(temporary, checkpoint)
        verify(temporary)
        if final.exists():  # the same step again, after a resume from an older checkpoint
            os.rename(final, root / f"{ASIDE}{final.name}")
        os.rename(temporary, final)
        durable.fsync_path(root)
        for directory in changed:
            with contextlib.suppress(PermissionError):  # a parent that may be written, but not read
                durable.fsync_path(directory)
    except BaseException as error:
        with contextlib.suppress(OSError):
            clear_temporary(root)
        explained = _explained(error, root, checkpoint.step)
        if explained is None:
            raise
        raise explained from error
    prune(root, keep, step=checkpoint.step)
    return final


def _explained(error: BaseException, root: Path, step: int) -> HvdtrainError | None:
    """Return what a failed save should say, or None where nothing better is known."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return NoSpaceError(
            f"{root}: no space left for the checkpoint of step {step}; earlier checkpoints are "
            "untouched. Free some space, or lower checkpoint.keep, then continue with --resume"
        )
    if isinstance(error, CorruptError):
        return CorruptError(
            f"{root}: the checkpoint of step {step} does not read back as it was written, so it was not kept; earlier "
            f"checkpoints are untouched. The disk or its connection is at fault ({error})"
        )
    return None


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _write_files(directory: Path, checkpoint: Checkpoint) -> None:
    state = json.dumps({**checkpoint.state, "format": FORMAT, "step": checkpoint.step}, indent=1).encode()
    directory.mkdir()
    digests = {
        "arrays.npz": durable.write_file(directory / "arrays.npz", lambda file: npz.write(file, checkpoint.arrays)),
        "state.json": durable.write_file(directory / "state.json", lambda file: file.write(state)),
    }
    durable.write_file(directory / MANIFEST, lambda file: file.write(_manifest(digests)))
    durable.fsync_path(directory)


def _manifest(digests: Mapping[str, str]) -> bytes:
    return json.dumps(dict(digests), indent=1).encode()


def verify(directory: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CorruptError: If a file is missing or is not what was written.
    """
    try:
        _compare(directory, {name: durable.digest(directory / name) for name in FILES})
    except OSError as error:
        raise CorruptError(f"{directory}: incomplete or unreadable ({error})") from error


def _compare(directory: Path, digests: Mapping[str, str]) -> None:
    """Raise unless the manifest is, byte for byte, the one that belongs to these files."""
    manifest = (directory / MANIFEST).read_bytes()
    if manifest == _manifest(digests):
        return
    wrong = [name for name, digest in digests.items() if f'"{name}": "{digest}"'.encode() not in manifest]
    raise CorruptError(f"{directory}: {', '.join(wrong) or MANIFEST} is not what was written (SHA-256 differs)")


def load(directory: Path) -> Checkpoint:
    """Read one checkpoint; what is hashed and what is used are the same bytes.

    Raises:
        CorruptError: If it is damaged.
    """
    try:
        contents = {name: (directory / name).read_bytes() for name in FILES}
        _compare(directory, {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    except (OSError, MemoryError) as error:
        raise CorruptError(f"{directory}: incomplete or unreadable ({error})") from error
    try:
        state = json.loads(contents["state.json"])
        if state["format"] > FORMAT:
            raise ValueError(f"format {state['format']} is of a newer hvdtrain; this one reads {FORMAT}")
        return Checkpoint(step=int(state["step"]), state=state, arrays=npz.read(contents["arrays.npz"]))
    except Exception as error:  # a manifest that fits wrong files: json, zipfile and NumPy raise whatever they like
        raise CorruptError(f"{directory}: cannot be read: {type(error).__name__}: {error}") from error


def load_newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and a sentence for each newer one that does not.

    A training may go on writing meanwhile: what it moves or prunes away is looked for anew.

    Raises:
        CorruptError: If there are checkpoints and none of them verifies.
    """
    while True:
        listed = _candidates(root)
        found, complaints = _newest_valid([path for path, *_ in listed])
        if (found and not complaints) or _candidates(root) == listed:
            break
    if complaints and found is None:
        raise CorruptError("no valid checkpoint is left: " + "; ".join(complaints))
    return found, complaints


def _newest_valid(directories: list[Path]) -> tuple[Checkpoint | None, list[str]]:
    complaints: list[str] = []
    for directory in directories:
        try:
            return load(directory), complaints
        except CorruptError as error:
            complaints.append(str(error))
    return None, complaints


def _candidates(root: Path) -> list[tuple[Path, int, int]]:
    """Return what could be loaded, newest first, each with what tells it from a successor of the same name."""
    while True:
        try:
            found = _matching(root, rf"(?:{re.escape(ASIDE)})?step_\d{{8,}}")
            found.sort(key=lambda path: (step_of(path), not path.name.startswith(ASIDE)), reverse=True)
            return [(path, (status := path.lstat()).st_ino, status.st_ctime_ns) for path in found]
        except FileNotFoundError:
            continue  # moved since it was listed, to another name that must not be missed
        except OSError as error:
            raise CorruptError(f"{root}: cannot be read ({error})") from error


def step_of(directory: Path) -> int:
    """Return the step in a checkpoint directory's name, for the order of checkpoints."""
    return int(directory.name.rpartition("_")[2])


def checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint directories, oldest first."""
    return sorted(_matching(root, r"step_\d{8,}"), key=step_of)


def _set_aside(root: Path) -> list[Path]:
    return _matching(root, re.escape(ASIDE) + r"step_\d{8,}")


def _matching(root: Path, pattern: str) -> list[Path]:
    return [path for path in root.iterdir() if re.fullmatch(pattern, path.name)] if root.is_dir() else []


def prune(root: Path, keep: int, *, step: int) -> None:
    """Delete all but the newest `keep` up to `step`, which was just written, and damaged ones after it.

    Training that went on from an older checkpoint comes before the damaged ones it passed over; those must not
    push out what is valid.
    """
    found = checkpoints(root)
    earlier = [path for path in found if step_of(path) <= step]
    damaged = [path for path in found[len(earlier) :] if not _is_valid(path)]
    for path in [*earlier[:-keep], *damaged]:
        _hide(path)
    clear_temporary(root)


def _hide(path: Path) -> None:
    """Take a checkpoint out of sight at once: what is half deleted must never be taken for one."""
    with contextlib.suppress(OSError):
        os.rename(path, path.with_name(f"{TEMPORARY}removed-{path.name}-{os.getpid()}"))


def _is_valid(directory: Path) -> bool:
    try:
        verify(directory)
    except CorruptError:
        return False
    return True


def clear_temporary(root: Path) -> None:
    """Delete what interrupted saves left behind; a checkpoint that was set aside in vain comes back."""
    for path in _set_aside(root):
        final = path.with_name(path.name.removeprefix(ASIDE))
        if final.exists():
            _hide(path)
        else:
            os.rename(path, final)
    for path in root.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
