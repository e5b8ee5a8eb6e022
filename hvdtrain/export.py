"""Where an export goes and in which form; the writing is a worker's. Must not import TensorFlow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hvdtrain import jobs
from hvdtrain.errors import ConfigError
from hvdtrain.rundir import find_run, read_json

# form -> how its name ends, and the name it gets when none is given
SUFFIXES = {"keras": ".keras", "weights": ".weights.h5", "html": ".html", "savedmodel": ""}
NAMES = {"keras": "model.keras", "weights": "model.weights.h5", "html": "demo.html", "savedmodel": "saved_model"}


def export_run(name: str, runs_root: Path, *, kind: str | None, output: Path | None, force: bool) -> dict[str, Any]:
    """Export a run's newest checkpoint; return path, format, step, parameters and notes.

    Raises:
        NotFoundError: If there is no such run.
        ConfigError: If the name does not fit the form, or something is there already.
        WorkerFailedError: If the worker failed; it has said why.
    """
    run = find_run(name, runs_root)
    kind = kind or kind_of(output)
    target = (output or run.path / "export" / NAMES[kind]).absolute()
    check_target(target, kind, force=force)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "export.json"
        jobs.run_worker(run, "--export", str(result), "--format", kind, "--output", str(target))
        return read_json(result)


def kind_of(output: Path | None) -> str:
    """Return the form that a name stands for.

    >>> kind_of(Path("a.keras")), kind_of(Path("a.weights.h5")), kind_of(Path("serving")), kind_of(None)
    ('keras', 'weights', 'savedmodel', 'keras')
    """
    if output is None:
        return "keras"
    return next((kind for kind, suffix in SUFFIXES.items() if suffix and output.name.endswith(suffix)), "savedmodel")


def check_target(target: Path, kind: str, *, force: bool) -> None:
    """Raise if an export cannot go there.

    Raises:
        ConfigError: If the name does not fit the form, or something is there already.
    """
    if not target.name.endswith(SUFFIXES[kind]) or (kind == "savedmodel" and kind_of(target) != kind):
        wanted = f"must end in {SUFFIXES[kind]}" if SUFFIXES[kind] else "is a directory; leave the ending out"
        raise ConfigError(f"--output {target}: the name of a {kind} export {wanted}")
    if not target.exists():
        return
    if not force:
        raise ConfigError(f"--output {target}: is there already; choose another name, or replace it with --force")
    is_saved_model = (target / "saved_model.pb").is_file()
    if target.is_dir() and not (kind == "savedmodel" and (is_saved_model or not any(target.iterdir()))):
        raise ConfigError(f"--output {target}: is a directory that holds no SavedModel, so --force does not delete it")
