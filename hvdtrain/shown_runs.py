"""Which runs `hvdtrain tensorboard` shows: one, or all that a directory holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.errors import NotFoundError
from hvdtrain.rundir import RunDir, find_run

PLAN = "plan.json"


@dataclass(frozen=True)
class Shown:
    """What TensorBoard is given.

    Args:
        folder: Its `--logdir`.
        runs: Those with curves below it, newest last.
    """

    folder: Path
    runs: tuple[RunDir, ...]


def shown_runs(name: str, root: Path) -> Shown:
    """Return the run that a name names, or all runs with curves below a directory: of a sweep, a ladder, `runs/NAME`.

    Args:
        name: A run as `find_run` takes it, a directory, or the name of a configuration.
        root: Where runs are looked for.

    Raises:
        NotFoundError: If there is none, or none has curves yet.
    """
    for directory in (Path(name), root / name):
        with contextlib.suppress(OSError):  # a name no file system takes
            if directory.is_dir() and not (directory / PLAN).is_file():
                return _all_in(directory)
    run = find_run(name, root)
    if not run.tensorboard.is_dir():
        raise NotFoundError(f"{run.path}: no curves yet; they begin with the first seconds of training")
    return Shown(run.tensorboard, (run,))


def _all_in(directory: Path) -> Shown:
    found = list(runs_below(directory))
    if not found:
        raise NotFoundError(f"{directory}: no run in it; give a run, or the directory of several runs")
    runs = tuple(run for run in found if run.tensorboard.is_dir())
    if not runs:
        raise NotFoundError(f"{directory}: {len(found)} run(s) in it, but no curves yet; they begin with training")
    return Shown(directory.resolve(), runs)


def runs_below(directory: Path) -> Iterator[RunDir]:
    """Yield the runs in a directory at any depth, in the order of their paths, without looking inside them."""
    for path, folders, files in os.walk(directory):
        folders.sort()
        if PLAN in files:
            folders.clear()
            yield RunDir(Path(path))
