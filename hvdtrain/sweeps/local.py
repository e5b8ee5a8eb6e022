"""Sweeps on this machine: trials in a pool, stopped and gone on with, up to the report and the winner's test."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hvdtrain._version import __version__
from hvdtrain.bench.machine import describe
from hvdtrain.cli.options import Changes
from hvdtrain.cli.show import command_line, name_of, nice_path, talk
from hvdtrain.errors import EnvironmentNotFitError, ExitCode
from hvdtrain.facts import Facts, gather_facts
from hvdtrain.jobs import WorkerFailedError, run_worker
from hvdtrain.plan import Plan
from hvdtrain.prepare import BATCH, Prepared, make_ready_again, new_run, new_run_name, prepare
from hvdtrain.resuming import continued
from hvdtrain.rundir import RunDir, read_json
from hvdtrain.runner import rank_environment
from hvdtrain.study.sweep_space import Range
from hvdtrain.study.sweep_table import FAILED, Outcome, Sweep, Task, head, to_do, winner
from hvdtrain.sweeps.config import SweepFile
from hvdtrain.sweeps.pool import Ended, Pool, Slot, make_slots
from hvdtrain.sweeps.progress import Progress
from hvdtrain.sweeps.report import say_report
from hvdtrain.sweeps.sweepdir import SweepDir, alone, outcomes, write_sweep
from hvdtrain.sweeps.trials import Trials, make_trials, stages, stages_text

MOST_AT_A_TIME = 8  # unless more are asked for: each holds TensorFlow and its data in memory


def sweep_here(file: SweepFile, changes: Changes, *, width: int | None, root: Path, is_dry: bool, as_json: bool) -> int:
    """Train all trials of a sweep on this machine, and return the exit code.

    Args:
        file: What was asked.
        changes: What the command line changes in the base.
        width: Trials at a time; None: as many as there are cores or GPUs for.
        root: Directory of all studies.
        is_dry: Say what would be trained, and stop.
        as_json: Print the table as JSON.

    Raises:
        ConfigError: If a trial is no valid configuration; nothing has been started then.
        EnvironmentNotFitError: If ranks cannot be started here.
    """
    facts = gather_facts()
    trials = make_trials(file, changes, facts)
    plan = trials.first.plan
    if plan.num_ranks > 1 and facts.mpi is None:
        raise EnvironmentNotFitError(f"several ranks need Open MPI 4 or 5, found: {facts.mpi_found}")
    width = width or min(MOST_AT_A_TIME, how_many_fit(plan, facts))
    sweep = sweep_of(file, trials, width=min(width, len(trials.prepared)))
    introduce(sweep)
    if is_dry:
        print(table_of_trials(sweep))
        return int(ExitCode.OK)
    directory = new_sweep(root, file, sweep, trials, machine=describe(facts))
    return go_on(directory, as_json=as_json)


def how_many_fit(plan: Plan, facts: Facts) -> int:
    """Return how many trials have cores, or GPUs, of their own; one at least, and one where there are more hosts."""
    if plan.config["launch"]["hostfile"] is not None:
        return 1
    return max(1, (facts.num_gpus or facts.num_cores or 1) // plan.num_replicas)


def sweep_of(file: SweepFile, trials: Trials, *, width: int, site: str | None = None) -> Sweep:
    """Return what is asked, with every trial."""
    plan, count = trials.first.plan, len(trials.prepared)
    found = stages(file, count, plan.epochs)
    notes = [*trials.notes, *([stages_text(found, count, plan.epochs)] if found else [])]
    return Sweep(
        name=file.name,
        base_name=plan.name,
        method=file.config.method,
        metric=file.config.objective.metric,
        is_max=bool(file.config.objective.is_max),
        trials=tuple(trial for trial, _ in trials.prepared),
        stages=found,
        epochs=plan.epochs,
        num_ranks=plan.num_ranks,
        width=width,
        num_validation=plan.num_validation,
        site=site,
        notes=tuple(notes),
        ranges={key: choice.is_log for key, choice in file.space.items() if isinstance(choice, Range)},
    )


def introduce(sweep: Sweep) -> None:
    """Say what is going to be trained."""
    ranks = "1 rank" if sweep.num_ranks == 1 else f"{sweep.num_ranks} ranks"
    better = "highest" if sweep.is_max else "lowest"
    talk(
        f"sweep {sweep.name}: {len(sweep.trials)} trials of {sweep.base_name} ({sweep.method}), {sweep.width} at a "
        f"time, {ranks} each; the {better} {sweep.metric} of the last epoch wins"
    )
    for note in sweep.notes:
        talk(f"  {note}")


def table_of_trials(sweep: Sweep) -> str:
    """Return every trial with its parameters."""
    from hvdtrain.bench.table import table
    from hvdtrain.study.sweep_space import value_text

    columns = slice(1, 2 + len(sweep.keys))
    lines = [[str(one.number), *(value_text(one.values[key]) for key in sweep.keys)] for one in sweep.trials]
    return table(head(sweep)[columns], lines, markdown=False)


def new_sweep(root: Path, file: SweepFile, sweep: Sweep, trials: Trials, **facts: object) -> SweepDir:
    """Make a sweep's directory, with a run directory for each trial: all that going on needs."""
    directory = SweepDir((root / sweep.name / new_run_name()).resolve())
    for trial, prepared in trials.prepared:
        new_run(saving(prepared), directory.runs, name=trial.name)
    asked = file.config.model_dump(mode="json")
    write_sweep(directory, sweep, asked=asked, command=command_line(), version=__version__, **facts)
    return directory


def saving(prepared: Prepared) -> Prepared:
    """Return a run whose ranks look for STOP and save, as those of a batch job do."""
    if prepared.batch is not None:
        return prepared
    script = dataclasses.replace(prepared.script, env=(*prepared.script.env, BATCH))
    return dataclasses.replace(prepared, script=script)


def go_on(directory: SweepDir, *, width: int | None = None, as_json: bool = False) -> int:
    """Train what a sweep on this machine is missing, write the report, and return the exit code.

    Raises:
        ConfigError: If another process is at it.
    """
    with alone(directory):
        return _go_on(directory, width=width, as_json=as_json)


def _go_on(directory: SweepDir, *, width: int | None, as_json: bool) -> int:
    sweep, facts = directory.sweep(), gather_facts()
    if width is not None:
        sweep = dataclasses.replace(sweep, width=width)
    talk(f"in {nice_path(directory.path)}; Ctrl-C saves and stops\n")
    try:
        code = train_all(directory, sweep, facts)
        if code == ExitCode.OK:
            code = test_winner(directory, sweep)
    except KeyboardInterrupt:  # between two stages
        code = int(ExitCode.INTERRUPTED)
    say_report(directory, as_json=as_json)
    if code in (int(ExitCode.INTERRUPTED), 143, 129):
        talk(f"stopped, what runs has saved its state; go on: hvdtrain sweep --resume {name_of(directory)}")
    return code


def train_all(directory: SweepDir, sweep: Sweep, facts: Facts) -> int:
    """Train stage after stage, and return the exit code."""
    is_first, progress = True, Progress(directory, sweep, talk)
    while True:
        found = outcomes(directory, sweep)
        tasks = to_do(sweep, found, retries=is_first)
        if not tasks:
            break
        if sweep.stages:
            talk(f"\n{len(tasks)} trials train up to epoch {tasks[0].stop_after or sweep.epochs} of {sweep.epochs}")
        progress.begin(tasks, found)
        is_first = False
        code = pool(directory, sweep, facts, progress).run(tasks)
        if code or progress.problem:
            talk(progress.problem)
            return code or progress.code
    failed = [one for one in outcomes(directory, sweep) if one.state == FAILED and not one.is_final]
    return 1 if failed else int(ExitCode.OK)


def pool(directory: SweepDir, sweep: Sweep, facts: Facts, progress: Progress) -> Pool[Task]:
    """Return the pool of a sweep's trials, each with its part of the machine."""
    slots = make_slots(sorted(os.sched_getaffinity(0)), visible_gpus(facts), sweep.width)

    def run_of(task: Task) -> RunDir:
        return directory.run(sweep, task.trial)

    def begin(task: Task, run: RunDir, slot: Slot) -> None:
        own = dataclasses.replace(facts, num_cores=len(slot.cores), num_gpus=len(slot.gpus))
        make_ready_again(run, next_start(run, task, own))

    def ended(one: Ended[Task]) -> bool:
        return progress.ended(one)

    environ = {**rank_environment(dict(os.environ)), "HVDTRAIN_PROGRESS": "quiet"}
    return Pool(slots, environ, run_of=run_of, begin=begin, ended=ended)


def next_start(run: RunDir, task: Task, facts: Facts) -> Prepared:
    """Return what a trial starts with, or goes on with, from its run directory alone."""
    setting = f"training.stop_after_epochs={task.stop_after or 'null'}"
    prepared = prepare(str(run.config), facts, overrides=(setting,), options=("--set", setting))
    return saving(continued(run, prepared))


def visible_gpus(facts: Facts) -> list[str]:
    """Return the GPUs of this machine as CUDA_VISIBLE_DEVICES names them."""
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return (named or [str(number) for number in range(facts.num_gpus)])[: facts.num_gpus]


def test_winner(directory: SweepDir, sweep: Sweep) -> int:
    """Evaluate the winner on the test data, once; return 0, or the code of a signal."""
    best: Outcome | None = winner(sweep, outcomes(directory, sweep))
    if best is None or not sweep.num_validation:
        return int(ExitCode.OK)
    result, run = directory.evaluation(sweep, best.trial), directory.run(sweep, best.trial)
    if read_json(result):
        return int(ExitCode.OK)
    talk("\nevaluating the winner on the test data ...")
    try:
        run_worker(run, "--evaluate", str(result))
    except WorkerFailedError as error:
        return error.code if error.code in (130, 143, 129) else int(ExitCode.OK)
    return int(ExitCode.OK)
