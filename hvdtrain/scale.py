"""Scaling studies, from a configuration to a report: here one run after the other, or as batch jobs."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hvdtrain._version import __version__
from hvdtrain.bench.launch import SIGNALLED
from hvdtrain.bench.machine import describe
from hvdtrain.cli.show import command_line, duration, name_of, nice_path, talk
from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError, EnvironmentNotFitError, ExitCode
from hvdtrain.facts import Facts, assumed_facts, gather_facts
from hvdtrain.measuring import run_measurement
from hvdtrain.prepare import Prepared, new_run, new_run_name, prepare
from hvdtrain.report import write_report
from hvdtrain.rundir import write_text
from hvdtrain.sites import Site, load_site
from hvdtrain.study.expand import RANKS, Point, Question, cores_per_rank, overrides_of, points
from hvdtrain.studydir import StudyDir, gather, write_study
from hvdtrain.submit import check, submit_run
from hvdtrain.watch import active_runs

POLL_S = 5.0


def scale_here(question: Question, root: Path) -> int:
    """Measure all sizes on this machine, write the report, and return the exit code.

    Raises:
        ConfigError: If the configuration does not work at one of the sizes; nothing has been started then.
        EnvironmentNotFitError: If ranks cannot be started here.
    """
    facts = gather_facts()
    if max(question.ranks) > 1 and facts.mpi is None:
        raise EnvironmentNotFitError(f"several ranks need Open MPI 4 or 5, found: {facts.mpi_found}")
    num_cores = facts.num_cores or max(question.ranks)
    question = dataclasses.replace(question, cores_per_rank=cores_per_rank(question.ranks, num_cores))
    question, prepared = _alike(_with_batch(question, facts, None), facts, None)
    study = _new_study(root, question, prepared, machine=describe(facts))
    return _run_all(study, prepared)


def resume_here(study: StudyDir) -> int:
    """Measure what a study on this machine is still missing.

    Raises:
        ConfigError: If its runs are batch jobs of a site.
    """
    question, facts = study.question(), gather_facts()
    if question.site is not None:
        raise ConfigError(
            f"--resume: the runs of study {study.short_id} are jobs of site {question.site}; see what they have found: "
            f"hvdtrain scale --collect {name_of(study)} [--wait]"
        )
    prepared = {point: _prepared(question, point, facts, None) for point in points(question)}
    _require_unchanged(study, question)
    return _run_all(study, prepared)


def _require_unchanged(study: StudyDir, question: Question) -> None:
    """Raise if the configuration is another one than when the study began: its sizes would not compare."""
    if study.config.exists() and study.config.read_bytes() != Path(question.config).read_bytes():
        raise ConfigError(
            f"--resume: {question.config} has changed since study {study.short_id} began; what it was is in "
            f"{nice_path(study.config)}. Put that back, or begin a new study"
        )


def _run_all(study: StudyDir, prepared: dict[Point, Prepared]) -> int:
    """Run what is missing, and write the report of what there is."""
    try:
        code = _run_missing(study, prepared)
    except KeyboardInterrupt:  # between two runs
        code = int(ExitCode.INTERRUPTED)
    if code == ExitCode.INTERRUPTED:
        talk(f"stopped; go on: hvdtrain scale --resume {name_of(study)}")
    _finish(study)
    return code


def _run_missing(study: StudyDir, prepared: dict[Point, Prepared]) -> int:
    """Run what is missing, one point after the other, and return the exit code."""
    began, failed = time.monotonic(), 0
    missing = gather(study)
    for place, point in enumerate(missing):
        left = (time.monotonic() - began) / place * (len(missing) - place) if place else None
        talk(f"{place + 1}/{len(missing)}: {point.title}" + (f" (about {duration(left)} left)" if left else ""))
        code = run_measurement(prepared[point], study.runs, point.name, title=point.title)
        if code in SIGNALLED:
            return int(ExitCode.INTERRUPTED)
        failed += bool(code)
        if failed and place == 0:  # the very first one: the others would fail in the same way
            return code
    return 1 if failed else int(ExitCode.OK)


def _finish(study: StudyDir) -> None:
    gather(study)
    if not study.has_sizes():
        talk("no number of ranks has been measured yet, so there is no report")
        return
    print(write_report(study))
    talk(f"\nreport: {nice_path(study.report)}\nstudy:  {nice_path(study.path)}")


# -- as batch jobs ------------------------------------------------------------------------------


def scale_on_site(question: Question, site_name: str, root: Path, *, ranks_per_node: int | None, wait: bool) -> int:
    """Submit a job for each point; print the study's id alone, or with `wait` the table at the end.

    Raises:
        ConfigError: If the site cannot run one of the sizes; nothing has been submitted then.
    """
    site = load_site(site_name, os.environ)
    question = _with_batch(_on_site(question, site_name, site, ranks_per_node), assumed_facts(), site)
    question, prepared = _alike(question, assumed_facts(), site)
    for one in {point.num_ranks: one for point, one in prepared.items()}.values():
        check(one, root)
    study = _new_study(root, question, prepared, machine=f"site {site.name}: {site.description}", site=site.name)
    for point, one in prepared.items():
        run = new_run(one, study.runs, name=point.name)
        job_id = submit_run(one, run)
        talk(f"{point.title}, repeat {point.repeat + 1}: job {job_id}")
    talk(f"\nwatch: hvdtrain status --runs {nice_path(study.runs)}")
    if not wait:
        talk(f"collect what has ended: hvdtrain scale --collect {name_of(study)}")
        print(study.short_id)
        return int(ExitCode.OK)
    return collect(study, wait=True)


def collect(study: StudyDir, *, wait: bool) -> int:
    """Gather what a study's jobs have found, and write the report of it; return 1 if some ended without."""
    missing = gather(study)
    while wait and missing and _active(study, missing):
        talk(f"{len(missing)} of {len(points(study.question()))} runs are not done; looking again in {POLL_S:g} s")
        time.sleep(POLL_S)
        missing = gather(study)
    active = set(_active(study, missing)) if missing else set()
    for point in missing:
        run = study.run_of(study.read()["name"], point)
        state = "queued or running" if point in active else f"ended without a result: hvdtrain why {run.path}"
        talk(f"{point.title}, repeat {point.repeat + 1}: {state}")
    _finish(study)
    return 1 if set(missing) - active else int(ExitCode.OK)


def _active(study: StudyDir, missing: Sequence[Point]) -> list[Point]:
    """Return the points whose jobs are still queued or running, with one question to the scheduler."""
    name = study.read()["name"]
    runs = {point: study.run_of(name, point) for point in missing}
    active = active_runs(list(runs.values()))
    return [point for point, run in runs.items() if run in active]


def _on_site(question: Question, name: str, site: Site, ranks_per_node: int | None) -> Question:
    """Return the question with the shape of a site's nodes.

    Raises:
        ConfigError: If a number of ranks does not divide over nodes.
    """
    _, partition = site.partition(load_config(question.config, question.overrides).slurm.partition)
    per_node = ranks_per_node or partition.gpus_per_node or 1
    uneven = [count for count in question.ranks if count > per_node and count % per_node]
    if uneven:
        raise ConfigError(f"--ranks: {uneven[0]} ranks do not divide over nodes of {per_node} ranks")
    return dataclasses.replace(
        question, site=name, ranks_per_node=per_node, cores_per_node=partition.cores_per_node, cores_per_rank=None
    )


# -- both ---------------------------------------------------------------------------------------


def _with_batch(question: Question, facts: Facts, site: Site | None) -> Question:
    """Return the question with the batch that stays.

    Strong scaling keeps the global one that the configuration has with its own ranks; weak scaling that of a rank,
    where the configuration states a global one the baseline's share of it.
    """
    if question.mode == "strong":
        own = prepare(question.config, facts, overrides=question.overrides)
        return dataclasses.replace(question, global_batch_size=own.plan.global_batch_size)
    if load_config(question.config, question.overrides).training.global_batch_size is None:
        return question
    baseline = _prepared(question, Point(RANKS, question.baseline, 0), facts, site)
    return dataclasses.replace(question, batch_size_per_replica=baseline.plan.batch_size_per_replica)


def _alike(question: Question, facts: Facts, site: Site | None) -> tuple[Question, dict[Point, Prepared]]:
    """Return the question and its runs, with as many steps in a call at every size: else sizes differ in that, too."""
    prepared = {point: _prepared(question, point, facts, site) for point in points(question)}
    counts = {one.plan.steps_per_execution for one in prepared.values()}
    if len(counts) == 1:
        return question, prepared
    question = dataclasses.replace(question, steps_per_execution=min(counts))
    return question, {point: _prepared(question, point, facts, site) for point in points(question)}


def _prepared(question: Question, point: Point, facts: Facts, site: Site | None) -> Prepared:
    try:
        return prepare(question.config, facts, overrides=overrides_of(question, point), site=site)
    except ConfigError as error:
        talk(f"at {point.title}:")
        raise error


def _new_study(
    root: Path, question: Question, prepared: dict[Point, Prepared], *, machine: str, **facts: Any
) -> StudyDir:
    name = next(iter(prepared.values())).plan.name
    study = StudyDir((root / name / new_run_name()).resolve())
    write_study(study, name, question, machine=machine, command=command_line(), version=__version__, **facts)
    write_text(study.config, Path(question.config).read_text(encoding="utf-8"))
    talk(f"study {study.short_id}: {len(prepared)} runs of about {question.seconds:g} s of timed training each")
    return study
