"""The workshop's ladder: every model, several seeds each, from one command. It goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from hvdtrain._version import __version__
from hvdtrain.bench.launch import SIGNALLED
from hvdtrain.bench.machine import describe
from hvdtrain.cli.show import command_line, duration, name_of, nice_path, talk
from hvdtrain.data_files import DATA_SETS
from hvdtrain.errors import EnvironmentNotFitError, ExitCode
from hvdtrain.facts import Facts, gather_facts
from hvdtrain.fetch import data_folder, find
from hvdtrain.in_use import refuse_used
from hvdtrain.jobs import WorkerFailedError, execute_script, run_worker
from hvdtrain.ladder_report import write_report
from hvdtrain.ladderdir import RUN, LadderDir, outcome
from hvdtrain.measuring import failure_words
from hvdtrain.prepare import Prepared, make_ready_again, new_run, new_run_name, prepare
from hvdtrain.resuming import continued
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.runner import rank_environment
from hvdtrain.study.rungs import BY_NAME, Climb, Question, config_of


def climb_ladder(question: Question, root: Path) -> int:
    """Train everything, write the report, and return the exit code.

    Raises:
        EnvironmentNotFitError: If ranks cannot be started here.
    """
    facts = gather_facts()
    if question.num_ranks > 1 and facts.mpi is None:
        raise EnvironmentNotFitError(f"several ranks need Open MPI 4 or 5, found: {facts.mpi_found}")
    ladder = LadderDir(root / "ladder" / new_run_name())
    (ladder.path / "configs").mkdir(parents=True)
    for climb in question.climbs():
        config = config_of(climb, data=question.data, num_ranks=question.num_ranks)
        write_text(ladder.config(climb), yaml.safe_dump(config, sort_keys=False))
    found = {"question": dataclasses.asdict(question), "machine": describe(facts), "version": __version__}
    write_text(ladder.question_file, json.dumps({**found, "command": command_line()}, indent=1) + "\n")
    return go_on(ladder)


def data_at_hand() -> str:
    """Return `mnist`, or `digits` with a word about it where MNIST is not at hand."""
    if find(DATA_SETS["mnist"], data_folder(os.environ)):
        return "mnist"
    talk(
        "MNIST is not at hand, so the ladder runs on scikit-learn's 1,797 digits; no published result compares.\n"
        "Put mnist.npz into $HVDTRAIN_DATA, or: hvdtrain data fetch mnist\n"
    )
    return "digits"


def go_on(ladder: LadderDir) -> int:
    """Train what is missing, write the report, and return the exit code."""
    question, facts = ladder.question(), gather_facts()
    climbs = list(question.climbs())
    missing = [climb for climb in climbs if not ladder.run(climb).finished.exists()]
    talk(f"ladder {ladder.short_id} on {question.data}: {len(missing)} of {len(climbs)} trainings to do")
    try:
        code = train_all(ladder, missing, facts)
        if code != ExitCode.INTERRUPTED and look(ladder) in SIGNALLED:
            code = int(ExitCode.INTERRUPTED)
    except KeyboardInterrupt:  # between two trainings
        code = int(ExitCode.INTERRUPTED)
    if code == ExitCode.INTERRUPTED:
        talk(f"stopped; go on: hvdtrain ladder --resume {name_of(ladder)}")
    print(write_report(ladder))
    talk(f"\nreport: {nice_path(ladder.report)}" if ladder.report.exists() else "")
    return code


def train_all(ladder: LadderDir, missing: Sequence[Climb], facts: Facts) -> int:
    """Train one model after the other, and return the exit code."""
    failed = False
    for place, climb in enumerate(missing):
        left = remaining(ladder, missing[place:])
        talk(f"{place + 1}/{len(missing)}: {climb.title}" + (f" (about {duration(left)} left)" if left else ""))
        code = train(ladder, climb, facts)
        if code in SIGNALLED:
            return int(ExitCode.INTERRUPTED)
        failed = failed or bool(code)
        if code and place == 0:  # the very first one: the others would fail in the same way
            return code
    return 1 if failed else int(ExitCode.OK)


def train(ladder: LadderDir, climb: Climb, facts: Facts) -> int:
    """Train one model, or what is left of its training; say the outcome and return the exit code."""
    run = made_ready(ladder, climb, prepare(str(ladder.config(climb)), facts))
    environ = {**rank_environment(dict(os.environ)), "HVDTRAIN_PROGRESS": "quiet"}
    code = execute_script(run, environ)
    if code == 0 and run.finished.exists():
        done = outcome(ladder, climb)
        talk(f"  {done.accuracy:.2f} % in {duration(done.seconds)}")
    elif code not in SIGNALLED:
        talk(failure_words(run, climb.title, code))
        return code or 1
    return code


def made_ready(ladder: LadderDir, climb: Climb, prepared: Prepared) -> RunDir:
    """Return a training's run directory: a new one, or the one of a training that was stopped."""
    run = ladder.run(climb)
    if run.plan.exists():
        refuse_used(run)
        make_ready_again(run, continued(run, prepared))
        return run
    return new_run(prepared, run.path.parents[1], name=RUN)


def remaining(ladder: LadderDir, missing: Sequence[Climb]) -> float | None:
    """Return the seconds that missing trainings will take, from those of the same models; None without any."""
    known: dict[str, list[float]] = {}
    for climb in ladder.question().climbs():
        if climb.examples_per_class is None and ladder.run(climb).finished.exists():
            known.setdefault(climb.rung, []).append(outcome(ladder, climb).seconds)
    means = {name: sum(values) / len(values) for name, values in known.items()}
    if any(climb.rung not in means for climb in missing):
        return None
    return sum(means[climb.rung] * climb.work for climb in missing)


def look(ladder: LadderDir) -> int:
    """Let the first seed of each model predict the test set, once; return 0, or the code of a signal."""
    for name in ladder.question().seeds:
        run = ladder.run(Climb(name, 0))
        if run.finished.exists() and not ladder.pictures(name).exists():
            try:
                run_worker(run, "--look", str(ladder.pictures(name)))
            except WorkerFailedError as error:
                if error.code in SIGNALLED:
                    return error.code
                talk(f"  no pictures of {BY_NAME[name].title}: exit code {error.code}")
    return int(ExitCode.OK)
