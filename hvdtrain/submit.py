"""From a configuration to a queued job: lint, run directories, sbatch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hvdtrain.cli.options import Changes
from hvdtrain.cli.show import ledger_text, name_of, nice_path, talk
from hvdtrain.errors import ConfigError, ExitCode
from hvdtrain.facts import assumed_facts
from hvdtrain.lint import charge_text, findings
from hvdtrain.prepare import Prepared, make_ready_again, new_run, new_run_name, prepare
from hvdtrain.resuming import continued, resumable_run
from hvdtrain.rundir import RunDir, find_run, write_text
from hvdtrain.runner import rank_environment
from hvdtrain.schedulers import SCHEDULERS
from hvdtrain.schedulers.layout import Layout
from hvdtrain.schedulers.programs import RefusedError
from hvdtrain.sites import Site, load_site
from hvdtrain.watch import refuse_active

MAX_TASKS = 1000  # of an array: each has a run directory


@dataclasses.dataclass(frozen=True)
class Ready:
    """A job that may be submitted: one prepared run per task of the array, or one."""

    runs: tuple[Prepared, ...]
    indices: tuple[int | None, ...]

    @property
    def first(self) -> Prepared:
        """The one that the script is rendered from."""
        return self.runs[0]


def submit_config(
    config_path: str | None, changes: Changes, *, resume: str | None, dry_run: bool, runs_root: Path
) -> int:
    """Submit a configuration to its site's scheduler; the job's id alone goes to standard output.

    Args:
        config_path: The configuration; None takes the resumed run's own.
        changes: What the command line changes.
        resume: None for a new run, empty for the newest unfinished one, else a run.
        dry_run: Print the script and submit nothing.
        runs_root: Directory that holds all runs.
    """
    run, ready = choose(config_path, changes, resume, runs_root)
    if run is not None and run.finished.exists():
        talk(f"{nice_path(run.path)} is finished; nothing is left to train")
        return int(ExitCode.OK)
    check(ready.first, run.path.parent if run is not None else runs_root)
    talk(ledger_text(ready.first.plan))
    talk(charge_text(ready.first.config, _layout(ready.first)))
    if dry_run:
        print(ready.first.text(), end="")
        return int(ExitCode.OK)
    runs = _make_runs(ready, runs_root) if run is None else [run]
    if run is not None:
        make_ready_again(run, ready.first)
    job_id = hand_over(ready, runs, is_new=run is None)
    note(ready, runs, job_id)
    for made in runs[:5]:
        talk(f"run directory: {nice_path(made.path)}")
    name = name_of(runs[0])
    talk(f"watch: hvdtrain status {name}   hvdtrain logs {name} --follow")
    print(job_id)
    return int(ExitCode.OK)


def choose(config_path: str | None, changes: Changes, resume: str | None, root: Path) -> tuple[RunDir | None, Ready]:
    """Return the run that goes on, None for a new one, and what is to be submitted."""
    if resume is None:
        return None, make_ready(config_path or "", changes)
    run = find_run(resume, root) if resume else None
    if config_path is None and run is not None:
        config_path = str(run.config)
    # One task of an array goes on by itself.
    changes = dataclasses.replace(changes, overrides=(*changes.overrides, "slurm.array=null"))
    ready = make_ready(config_path or "", changes)
    run = run or resumable_run(ready.first, root)
    if run.finished.exists():
        return run, ready
    refuse_active(run)
    return run, dataclasses.replace(ready, runs=(continued(run, ready.first),))


def hand_over(ready: Ready, runs: Sequence[RunDir], *, is_new: bool) -> str:
    """Submit a job for runs that are ready, and return its id; new ones leave nothing behind if it is refused."""
    try:
        return _sbatch(ready, runs)
    except RefusedError:
        if is_new:
            for made in runs:
                shutil.rmtree(made.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                runs[0].path.parent.rmdir()
        raise
    except BaseException:
        talk(f"it is not known whether the job was accepted: squeue --me tells; {nice_path(runs[0].path)} is kept")
        raise


def make_ready(config_path: str, changes: Changes) -> Ready:
    """Return the prepared runs of a configuration on its site.

    Raises:
        ConfigError: If no site is named, or the configuration is wrong.
    """
    from hvdtrain.config_file import load_config

    config = load_config(config_path, changes.overrides)
    if "--site" not in changes.options and config.slurm.site is not None:
        changes = dataclasses.replace(changes, options=(*changes.options, "--site", config.slurm.site))
    if config.slurm.site is None:
        raise ConfigError("submit needs to know the cluster: --site SITE, or slurm.site in the configuration")
    site = load_site(config.slurm.site, os.environ)
    indices = array_indices(config.slurm.array) if config.slurm.array else [None]
    if len(indices) > MAX_TASKS:
        raise ConfigError(f"slurm.array: at most {MAX_TASKS} tasks; {config.slurm.array!r} has {len(indices)}")
    seeds = [config.training.seed + (index or 0) for index in indices]
    return Ready(tuple(_prepared(config_path, changes, site, seed) for seed in seeds), tuple(indices))


def _prepared(config_path: str, changes: Changes, site: Site, seed: int) -> Prepared:
    overrides = (*changes.overrides, f"training.seed={seed}")
    return prepare(config_path, assumed_facts(), overrides=overrides, options=changes.options, site=site)


def array_indices(text: str) -> list[int]:
    """Return the indices of a job array as Slurm writes it.

    >>> array_indices("0-4:2,7%2")
    [0, 2, 4, 7]
    """
    found: set[int] = set()
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        indices = range(int(first), int(last or first) + 1, int(step or 1))
        if not 0 < len(indices) <= MAX_TASKS:
            raise ConfigError(f"slurm.array: {part!r} has {len(indices)} indices; 1 to {MAX_TASKS} are allowed")
        found |= set(indices)
    return sorted(found)


def check(prepared: Prepared, runs_root: Path) -> None:
    """Say what lint finds; refuse what would pend for ever or waste the allocation.

    Raises:
        ConfigError: With every reason.
    """
    found = list(findings(prepared.config, _layout(prepared), run_folder=str(runs_root.resolve())))
    for finding in found:
        if not finding.is_error:
            talk(f"warning: {finding.problem}")
    errors = [finding.problem for finding in found if finding.is_error]
    if errors:
        raise ConfigError(errors)


def _layout(prepared: Prepared) -> Layout:
    assert prepared.layout is not None
    return prepared.layout


def _make_runs(ready: Ready, root: Path) -> list[RunDir]:
    name = new_run_name()
    names = [name if index is None else f"{name}.{index}" for index in ready.indices]
    return [new_run(prepared, root, name=one) for prepared, one in zip(ready.runs, names, strict=True)]


def _sbatch(ready: Ready, runs: Sequence[RunDir]) -> str:
    first, is_array = runs[0], ready.indices[0] is not None
    base = str(first.path).removesuffix(f".{ready.indices[0]}") if is_array else str(first.path)
    log = f"{base}.INDEX/logs" if is_array else f"{base}/logs"
    environ = rank_environment(os.environ) | {"HVDTRAIN_PROGRESS": "plain"}
    names = ready.first.config.launch.pass_env
    scheduler = SCHEDULERS[_layout(ready.first).site.scheduler]
    return scheduler.submit(first.script, base, log, environ, pass_names=names, is_array=is_array)


def submit_run(prepared: Prepared, run: RunDir) -> str:
    """Submit the job of one new run directory, and return its id."""
    ready = Ready((prepared,), (None,))
    job_id = hand_over(ready, [run], is_new=True)
    note(ready, [run], job_id)
    return job_id


def note(ready: Ready, runs: Sequence[RunDir], job_id: str) -> None:
    """Write into run directories which job, or which task of it, is theirs."""
    site = _layout(ready.first).site
    for run, index in zip(runs, ready.indices, strict=True):
        own = job_id if index is None else f"{job_id}_{index}"
        text = json.dumps({"job_id": own, "site": site.name, "scheduler": site.scheduler, "submitted": time.time()})
        write_text(run.job, text + "\n")
