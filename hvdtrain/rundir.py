"""Every path under one run directory, and how runs are found again.

`runs/<name>/<timestamp>-<short id>/`. Files are written to a temporary name and renamed, so a reader never
sees half of one. Must not import TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.errors import NoSpaceError, NotFoundError

RUNS = "runs"


@dataclass(frozen=True)
class RunDir:
    """One run's directory; attributes are the paths in it.

    Args:
        path: Of the directory.
        logs_name: Folder of the logs in it.
    """

    path: Path
    logs_name: str = "logs"

    @property
    def config(self) -> Path:
        """The configuration with all defaults and overrides filled in."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """Every derived number."""
        return self.path / "plan.json"

    @property
    def script(self) -> Path:
        """The job script that was executed."""
        return self.path / "job.sh"

    @property
    def command(self) -> Path:
        """The command that repeats this run, as a new one."""
        return self.path / "command.txt"

    @property
    def origin(self) -> Path:
        """Where the configuration was, which options changed it, when."""
        return self.path / "origin.json"

    @property
    def environment(self) -> Path:
        """Versions, host, devices and strategy as the workers found them."""
        return self.path / "environment.json"

    @property
    def logs(self) -> Path:
        """One log per rank."""
        return self.path / self.logs_name

    def aside(self) -> RunDir:
        """Return the same run with other logs: what comes after training must not rewrite how that ended."""
        return dataclasses.replace(self, logs_name="logs/after")

    @property
    def metrics(self) -> Path:
        """One JSON record per line: epochs, evaluations, checkpoints."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """`step_00001234/`, newest last."""
        return self.path / "checkpoints"

    @property
    def summary(self) -> Path:
        """The outcome in one JSON object."""
        return self.path / "summary.json"

    @property
    def measurement(self) -> Path:
        """How fast a run that was to be measured has trained."""
        return self.path / "measurement.json"

    @property
    def finished(self) -> Path:
        """Exists once the run has ended well."""
        return self.path / "FINISHED"

    @property
    def exit(self) -> Path:
        """The run's own exit code, where a launcher would not pass it on."""
        return self.path / "EXIT"

    @property
    def tensorboard(self) -> Path:
        """Event files with rank 0's curves."""
        return self.path / "tensorboard"

    @property
    def timeline(self) -> Path:
        """What was recorded of some steps."""
        return self.path / "timeline"

    @property
    def stop(self) -> Path:
        """What a batch script, or `hvdtrain cancel`, writes so that training stops; its text says why."""
        return self.path / "STOP"

    @property
    def progress(self) -> Path:
        """Where training is at this moment."""
        return self.path / "progress.json"

    @property
    def in_use(self) -> Path:
        """The file that is locked while something on this machine trains here."""
        return self.path / ".in_use"

    @property
    def job(self) -> Path:
        """The batch job that was submitted for this run."""
        return self.path / "job.json"

    @property
    def short_id(self) -> str:
        """The last part of the directory's name."""
        return self.path.name.rsplit("-", 1)[-1]

    def log(self, rank: int) -> Path:
        """Return the log file of one rank."""
        return self.logs / f"rank_{rank:04d}.log"

    @property
    def launcher_log(self) -> Path:
        """What the launcher itself had to say about the last start."""
        return self.logs / "launcher.log"

    def failure(self, rank: int) -> Path:
        """Return where one rank writes what went wrong."""
        return self.logs / f"rank_{rank:04d}.error.json"

    def exit_code(self) -> int | None:
        """Return the run's own exit code, if it left one that can be read."""
        try:
            return int(self.exit.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def job_id(self) -> str | None:
        """Return the id of the batch job that was submitted last for this run, if there is one."""
        submitted = read_json(self.job).get("job_id")
        submitted = submitted if isinstance(submitted, str) else None
        if not self.lock.is_symlink():
            return submitted
        started_later = submitted is None or self.lock.lstat().st_mtime > self.job.stat().st_mtime
        return os.readlink(self.lock) if started_later else submitted

    def job_logs(self) -> list[Path]:
        """Return the logs of batch jobs, the newest last."""
        return sorted(self.logs.glob("slurm-*.out"), key=lambda path: path.stat().st_mtime)

    def scheduler(self) -> str:
        """Return the name of the scheduler that has this run's job."""
        name = read_json(self.job).get("scheduler")
        return name if name in ("slurm", "pbs") else "slurm"

    @property
    def lock(self) -> Path:
        """A link that names the batch job which is training here."""
        return self.path / "JOB"

    def state(self) -> str:
        """Return `finished`, `failed` or `unfinished`."""
        if self.finished.exists():
            return "finished"
        return "failed" if any(self.logs.glob("rank_*.error.json")) else "unfinished"


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary name in the same directory, fsync, rename.

    Raises:
        NoSpaceError: If the disk or quota is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"{path}: no space left to write it; free some space or choose another disk") from error
        raise


NO_SPACE = (28, 122)  # ENOSPC, EDQUOT


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, empty if it does not exist or was never finished."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def find_runs(root: Path) -> list[RunDir]:
    """Return all runs below `root` (a `runs` directory), newest first."""
    found = [RunDir(path.parent) for path in root.glob("*/*/plan.json")]
    return sorted(found, key=lambda run: run.path.name, reverse=True)


def find_runs_named(name: str, root: Path) -> list[RunDir]:
    """Return the run that a name names, or all runs of the job array that it is the id of.

    Raises:
        NotFoundError: If there is none.
    """
    return tasks_of(name, find_runs(root)) or [find_run(name, root)]


def tasks_of(name: str, runs: Sequence[RunDir]) -> list[RunDir]:
    """Return the runs of a job array: its id, or the short id they have in common."""
    if not re.fullmatch(r"\w+", name):
        return []
    found = [run for run in runs if run.short_id.startswith(f"{name}.")]
    if not found and name.isdigit():
        found = [run for run in runs if (run.job_id() or "").startswith(f"{name}_")]
    return sorted(found, key=lambda run: run.path.name)


def find_run(name: str, root: Path) -> RunDir:
    """Return the run that a path, a run's directory name, its short id or its batch job's id names.

    Raises:
        NotFoundError: If there is none.
    """
    with contextlib.suppress(OSError):  # a name no file system takes
        if (Path(name) / "plan.json").is_file():
            return RunDir(Path(name).resolve())
    runs = find_runs(root)
    for run in runs:
        if name in (run.short_id, run.path.name):
            return run
    if re.fullmatch(r"\d+(_\d+)?", name):
        for run in runs:
            if run.job_id() == name:
                return run
    tasks = tasks_of(name, runs)
    if tasks:
        which = ", ".join(run.job_id() or run.short_id for run in tasks[:5])
        raise NotFoundError(f"{name} is an array of {len(tasks)} runs; name one of them: {which}")
    known = ", ".join(run.short_id for run in runs[:5]) or "none"
    raise NotFoundError(f"no run {name!r}: give a run directory, a short id or a job id; newest under {root}: {known}")
