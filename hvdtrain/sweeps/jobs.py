"""Sweeps as job arrays, a task for each trial: submitted, gone on with, and collected."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hvdtrain.cli.options import Changes
from hvdtrain.cli.show import name_of, nice_path, talk
from hvdtrain.errors import ConfigError, ExitCode
from hvdtrain.facts import assumed_facts
from hvdtrain.lint import charge_text
from hvdtrain.prepare import Prepared, make_ready_again, prepare
from hvdtrain.resuming import continued
from hvdtrain.rundir import read_json
from hvdtrain.schedulers.programs import RefusedError
from hvdtrain.sites import Site, load_site
from hvdtrain.study.sweep_table import FAILED, Sweep, Task, to_do
from hvdtrain.submit import Ready, check, hand_over, note
from hvdtrain.sweeps.config import SweepFile
from hvdtrain.sweeps.local import introduce, new_sweep, sweep_of
from hvdtrain.sweeps.report import say_report
from hvdtrain.sweeps.sweepdir import SweepDir, outcomes, running_trials
from hvdtrain.sweeps.trials import expected_trials, make_trials
from hvdtrain.watch import active_runs

POLL_S = 5.0


def sweep_on_site(
    file: SweepFile,
    changes: Changes,
    site_name: str,
    *,
    width: int | None,
    root: Path,
    is_dry: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Submit one job array with a task for each trial; print the sweep's id alone, or with `wait` the table.

    Args:
        file: What was asked.
        changes: What the command line changes in the base.
        site_name: The cluster.
        width: Tasks at a time; None: as many as the scheduler gives.
        root: Directory of all studies.
        is_dry: Print the job script and submit nothing.
        wait: Wait for the jobs; successive halving then goes on from stage to stage.
        as_json: Print the table as JSON.

    Raises:
        ConfigError: If a trial is no valid configuration, or the site cannot run it; nothing is submitted then.
        EnvironmentNotFitError: If the scheduler refuses, or is not there.
    """
    site = load_site(site_name, os.environ)
    array = array_text(range(expected_trials(file)), width)  # arrays that are submitted have the trials there are
    changes = Changes((*changes.overrides, f"slurm.array='{array}'"), changes.options)
    trials = make_trials(file, changes, assumed_facts(), site)
    _require_one_script([prepared for _, prepared in trials.prepared])
    check(trials.first, root)
    sweep = sweep_of(file, trials, width=width or len(trials.prepared), site=site.name)
    introduce(sweep)
    assert trials.first.layout is not None
    talk(charge_text(trials.first.config, trials.first.layout))
    if is_dry:
        print(trials.first.text(), end="")
        return int(ExitCode.OK)
    directory = new_sweep(root, file, sweep, trials, machine=f"site {site.name}: {site.description}", profile=site_name)
    try:
        submit_tasks(directory, sweep, to_do(sweep, outcomes(directory, sweep), retries=True), site)
    except RefusedError:
        shutil.rmtree(directory.path)
        raise
    if wait:
        return go_on(directory, wait=True, as_json=as_json)
    talk(f"watch: hvdtrain status --runs {nice_path(directory.runs)}")
    if sweep.stages:
        talk(f"the next stage, when this one has ended: hvdtrain sweep --resume {name_of(directory)}")
    talk(f"table and report: hvdtrain sweep --collect {name_of(directory)}")
    print(directory.short_id)
    return int(ExitCode.OK)


def go_on(directory: SweepDir, *, width: int | None = None, wait: bool, as_json: bool) -> int:
    """Submit what a sweep is missing and is not in the queue, stage after stage with `wait`; return the exit code."""
    sweep, submitted = directory.sweep(), set[tuple[int, int | None]]()
    if width is not None:
        sweep = dataclasses.replace(sweep, width=width)
    site = load_site(read_json(directory.file)["profile"], os.environ)
    while True:
        active = active_trials(directory, sweep)
        if not active or not sweep.stages:
            tasks = to_do(sweep, outcomes(directory, sweep, active), retries=not submitted)
            new = [task for task in tasks if task.trial.number not in active and _key(task) not in submitted]
            if new:
                submit_tasks(directory, sweep, new, site)
                submitted |= set(map(_key, new))
                continue
        if not active or not wait:
            return collect(directory, wait=wait, as_json=as_json)
        talk(f"{len(active)} trials are queued or running; looking again in {POLL_S:g} s")
        time.sleep(POLL_S)


def collect(directory: SweepDir, *, wait: bool, as_json: bool) -> int:
    """Write the report of what there is; return 1 if trials have failed that might not have."""
    sweep = directory.sweep()
    look = active_trials if sweep.site is not None else running_trials
    active = look(directory, sweep)
    while wait and active:
        talk(f"{len(active)} trials are queued or running; looking again in {POLL_S:g} s")
        time.sleep(POLL_S)
        active = look(directory, sweep)
    say_report(directory, as_json=as_json, active=active)
    found = outcomes(directory, sweep, active)
    if not active and to_do(sweep, found, retries=False):
        talk(f"some trials are not done: hvdtrain sweep --resume {name_of(directory)}")
    return 1 if any(one.state == FAILED and not one.is_final for one in found) else int(ExitCode.OK)


def active_trials(directory: SweepDir, sweep: Sweep) -> frozenset[int]:
    """Return the numbers of the trials whose jobs are in the queue.

    Raises:
        EnvironmentNotFitError: If the scheduler cannot be asked.
    """
    runs = {directory.run(sweep, trial).path: trial.number for trial in sweep.trials}
    return frozenset(runs[run.path] for run in active_runs([directory.run(sweep, trial) for trial in sweep.trials]))


def submit_tasks(directory: SweepDir, sweep: Sweep, tasks: Sequence[Task], site: Site) -> None:
    """Submit one array for trials that begin or go on, and say its id."""
    ready, runs = _ready(directory, sweep, tasks, site), [directory.run(sweep, task.trial) for task in tasks]
    for run, prepared in zip(runs, ready.runs, strict=True):
        make_ready_again(run, prepared)
    job_id = hand_over(ready, runs, is_new=False)
    note(ready, runs, job_id)
    upto = f", up to epoch {tasks[0].stop_after or sweep.epochs} of {sweep.epochs}" if sweep.stages else ""
    talk(f"job array {job_id}: {len(tasks)} trials{upto}")


def _ready(directory: SweepDir, sweep: Sweep, tasks: Sequence[Task], site: Site) -> Ready:
    width = sweep.width if sweep.width < len(tasks) else None
    array = array_text([task.trial.number for task in tasks], width)
    prepared = []
    for task in tasks:
        run = directory.run(sweep, task.trial)
        settings = (f"training.stop_after_epochs={task.stop_after or 'null'}", f"slurm.array='{array}'")
        options = tuple(token for setting in settings for token in ("--set", setting))
        mine = prepare(str(run.config), assumed_facts(), overrides=settings, options=options, site=site)
        prepared.append(continued(run, mine))
    return Ready(tuple(prepared), tuple(task.trial.number for task in tasks))


def _key(task: Task) -> tuple[int, int | None]:
    return task.trial.number, task.stop_after


def array_text(numbers: Sequence[int], width: int | None) -> str:
    """Return numbers as a scheduler writes an array's indices, at most `width` at a time.

    >>> array_text([0, 1, 2, 5, 7, 8], None), array_text(range(20), 4)
    ('0-2,5,7-8', '0-19%4')
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"{text}%{width}" if width is not None else text


def _require_one_script(trials: Sequence[Prepared]) -> None:
    """Refuse trials that one script cannot start.

    Raises:
        ConfigError: If ranks would need other options or variables in some of them.
    """
    first = trials[0].batch
    for prepared in trials[1:]:
        one = prepared.batch
        assert first is not None
        assert one is not None
        if (one.directives, one.script.env, one.script.launch) != (
            first.directives,
            first.script.env,
            first.script.launch,
        ):
            raise ConfigError(
                "the trials of a job array share one script, and a parameter (such as training.deterministic) changes "
                "how ranks start; sweep it on this machine, or in sweeps of their own"
            )
