"""Sweeps for real: stopped and gone on with, halved, failing, at the end a table, a page and the winner's test."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hvdtrain.errors import ConfigError, CorruptError, ExitCode
from hvdtrain.in_use import is_held
from hvdtrain.rundir import RunDir, read_json
from hvdtrain.runner import descendants
from hvdtrain.sweeps.pool import Pool, make_slots
from hvdtrain.sweeps.sweepdir import SweepDir, alone, find_sweep, outcomes
from tests.browser import find_browser, open_page
from tests.conftest import PROJECT, missing

pytestmark = pytest.mark.beside

BASE = PROJECT / "configs" / "sweeps" / "dense_dropout.yaml"
HALVING = f"""\
base: {BASE}
method: halving
num_trials: 3
halving: {{factor: 3}}
parameters:
  model.args.units: {{low: 16, high: 32, integer: true}}
  optimizer.learning_rate: [0.001, 0.02]
objective: {{metric: val_accuracy}}
"""
SETTINGS = ("--set", "training.epochs=3", "--set", "optimizer.schedule=cosine")


def sweep(*words: str, cwd, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True, timeout=400, check=False)
    assert code is None or result.returncode == code, result.stdout + result.stderr
    return result


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "hvdtrain", "sweep", *words]


@pytest.fixture(scope="module")
def halved(tmp_path_factory, require_horovod):
    """A sweep by halving that was stopped in its first stage and gone on with: (folder, what it said, both times)."""
    folder = tmp_path_factory.mktemp("halved")
    (folder / "my.yaml").write_text(HALVING)
    said = folder / "said"
    with open(said, "w") as file:
        process = subprocess.Popen(command("my.yaml", *SETTINGS), cwd=folder, stdout=file, stderr=file)
    deadline = time.monotonic() + 200
    while not list(folder.glob("studies/*/*/runs/*/trial.*/metrics.jsonl")):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=150) == ExitCode.INTERRUPTED, said.read_text()
    before = {run.parent.name for run in folder.glob("studies/*/*/runs/*/*/checkpoints")}
    result = sweep("--resume", cwd=folder)
    return folder, said.read_text(), result, before


def test_a_signal_lets_running_trials_save_and_says_how_to_go_on(halved):
    folder, said, _, saved = halved
    found = find_sweep("", folder / "studies")
    assert "save their state and stop" in said
    assert f"hvdtrain sweep --resume {found.short_id}" in said
    assert saved, "a trial that had begun has a checkpoint"
    begun = json.loads((found.run(found.sweep(), found.sweep().trials[0]).metrics).read_text().splitlines()[0])
    assert begun["kind"] == "start"


def test_the_best_go_on_and_end_as_if_they_had_never_stopped(halved, tmp_path):
    folder, _, result, _ = halved
    found = find_sweep("", folder / "studies")
    asked = found.sweep()
    trials = outcomes(found, asked)
    assert sorted((one.state, one.epochs) for one in trials) == [("dropped", 1), ("dropped", 1), ("finished", 3)]
    best = max(trials, key=lambda one: one.scores[1])
    assert best.state == "finished"
    assert re.search(rf"1\s+{best.trial.number}\s", result.stdout), "the table has it first"
    run = found.run(asked, best.trial)
    alone = [sys.executable, "-m", "hvdtrain", "run", str(run.config), "--runs", str(tmp_path)]
    uninterrupted = [*alone, "--set", "launch.cores_per_rank=1", "--set", "training.stop_after_epochs=null"]
    subprocess.run(uninterrupted, check=True, capture_output=True)
    summary = read_json(next(tmp_path.glob("*/*/summary.json")))
    assert summary["digest"] == read_json(run.summary)["digest"], "stages and stops must not change a bit"
    assert summary["num_validation"] == 144


def test_the_winner_is_evaluated_once_on_the_test_data(halved):
    folder, _, result, _ = halved
    found = find_sweep("", folder / "studies")
    asked = found.sweep()
    (best,) = [one for one in outcomes(found, asked) if one.state == "finished"]
    tested = read_json(found.evaluation(asked, best.trial))["metrics"]
    assert f"on the test data, evaluated once: loss {tested['loss']:.4f}" in result.stdout
    stamp = found.evaluation(asked, best.trial).stat().st_mtime_ns
    again = sweep("--resume", "--json", cwd=folder)
    data = json.loads(again.stdout)
    assert found.evaluation(asked, best.trial).stat().st_mtime_ns == stamp
    assert (data["winner"], data["test"]) == (best.trial.number, tested)
    assert [row["state"] for row in data["trials"]] == ["finished", "dropped", "dropped"]


def test_validation_metrics_are_those_of_the_examples_that_were_held_out(halved):
    """A forward pass in NumPy with the weights of the last checkpoint, over the examples that nobody trained on."""
    from hvdtrain.train.order import hold_out
    from hvdtrain.workshop.data import digits

    folder, *_ = halved
    found = find_sweep("", folder / "studies")
    (best,) = [one for one in outcomes(found, found.sweep()) if one.state == "finished"]
    run = found.run(found.sweep(), best.trial)
    with np.load(sorted(run.checkpoints.glob("step_*"))[-1] / "arrays.npz") as arrays:
        weights = {name: arrays[name] for name in arrays.files}
    kernels = [value for name, value in sorted(weights.items()) if "kernel" in name and "optimizer" not in name][:2]
    biases = [value for name, value in sorted(weights.items()) if "bias" in name and "optimizer" not in name][:2]
    (x, y), (x_test, y_test) = digits()
    _, rows = hold_out(len(x), 144, seed=0)

    def accuracy(images, labels) -> float:
        hidden = np.maximum(images.reshape(len(images), -1) @ kernels[0] + biases[0], 0)
        return float(np.mean((hidden @ kernels[1] + biases[1]).argmax(1) == labels))

    assert accuracy(x[rows], y[rows]) == pytest.approx(best.score, abs=1e-6)
    tested = read_json(found.evaluation(found.sweep(), best.trial))["metrics"]
    assert accuracy(x_test, y_test) == pytest.approx(tested["accuracy"], abs=1e-6)


def test_the_page_shows_every_trial(halved):
    folder, *_ = halved
    found = find_sweep("", folder / "studies")
    assert {path.name for path in found.plots.iterdir()} >= {"parallel.svg", "parallel.png"}
    assert found.table("csv").read_text().count("\n") == 4
    if find_browser() is None:
        missing("browser", "there is no Chromium")
    opened = open_page(found.report, 'figure, [id^="parallel-trial-"]')
    assert opened.console == []
    drawn = {item["id"]: item for item in opened.items}
    assert {"plot-parallel", "plot-parameters", "plot-epochs"} <= set(drawn)
    for number in range(3):
        assert drawn[f"parallel-trial-{number}"]["width"] > 200
        assert f"trial {number}: " in drawn[f"parallel-trial-{number}"]["text"], "what one reads when pointing at it"


@pytest.mark.thorough
def test_one_trial_that_fails_does_not_end_a_sweep_of_two_ranks(tmp_path, require_horovod):
    text = f"base: {BASE}\nmethod: grid\nparameters:\n  optimizer.args: [{{nonsense: 1}}, {{}}]\n"
    (tmp_path / "my.yaml").write_text(text)
    result = sweep("my.yaml", "--ranks", "2", "--set", "training.epochs=1", cwd=tmp_path, code=1)
    assert "1 at a time, 2 ranks each" in result.stderr
    assert "nonsense" in result.stderr
    found = find_sweep("", tmp_path / "studies")
    states = [one.state for one in outcomes(found, found.sweep())]
    assert states == ["failed", "finished"]
    assert read_json(found.run(found.sweep(), found.sweep().trials[1]).summary)["num_ranks"] == 2


@pytest.mark.thorough
def test_a_sweep_whose_trials_all_fail_alike_stops_and_shows_the_error(tmp_path):
    text = f"base: {BASE}\nmethod: grid\nparameters:\n  model.args.units: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    (tmp_path / "my.yaml").write_text(text)
    words = ("my.yaml", "--set", "data.args={no_such: 1}", "--parallel", "3")
    result = sweep(*words, cwd=tmp_path, code=int(ExitCode.CONFIG))
    assert "the first 3 trials failed in the same way" in result.stderr
    assert "no_such" in result.stderr
    found = find_sweep("", tmp_path / "studies")
    assert any(one.state == "waiting" for one in outcomes(found, found.sweep())), "not all are tried"


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        ((), "give one of: a sweep file, --resume [SWEEP], --collect [SWEEP]", 2),
        (("--resume", "nowhere"), "no sweep 'nowhere'", 4),
        (("x.yaml",), "there is no such file", 2),
        ((str(BASE),), "a sweep file names it", 2),
        (("x.yaml", "--submit"), "--site SITE", 2),
    ],
)
def test_bad_input_is_explained_before_anything_starts(words, said, code, tmp_path):
    result = sweep(*words, cwd=tmp_path, code=code)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_the_trials_and_writes_nothing(tmp_path):
    result = sweep(str(PROJECT / "configs/sweeps/workshop.yaml"), "--dry-run", cwd=tmp_path)
    assert len(result.stdout.splitlines()) == 13
    assert not list(tmp_path.iterdir())


def test_trials_at_a_time_have_cores_of_their_own(halved):
    folder, *_ = halved
    if len(os.sched_getaffinity(0)) < 2:
        missing("cores", "there is one core only")
    found = find_sweep("", folder / "studies")
    runs = [found.run(found.sweep(), trial) for trial in found.sweep().trials]
    cores = [tuple(read_json(run.environment)["ranks"][0]["cores"]) for run in runs]
    width = len(os.sched_getaffinity(0)) // found.sweep().width
    assert all(len(one) == width for one in cores)
    assert len(set(cores[:2])) == 2, "the first two began side by side"


SCRIPT = 'while [ ! -f "$1/STOP" ] && [ ! -e "$1/../go on" ]; do sleep 0.05; done\n'


def pool_of(folder, error: Exception, told: list[tuple[int, int]]) -> Pool[int]:
    """Runs, two at a time, that last until they are stopped; `error` keeps the second from being made ready."""

    def run_of(number: int) -> RunDir:
        return RunDir(folder / str(number))

    def begin(number, run, slot) -> None:
        if number == 1:
            raise error
        run.logs.mkdir(parents=True)
        run.script.write_text(SCRIPT)

    def ended(one) -> bool:
        told.append((one.what, one.code))
        (folder / "go on").touch()
        return True

    (folder / "1").mkdir()
    return Pool(make_slots(sorted(os.sched_getaffinity(0)), [], 2), os.environ, run_of=run_of, begin=begin, ended=ended)


def still_running() -> set[int]:
    """Return what this process has started and still runs, once what was killed has had time to end."""
    deadline = time.monotonic() + 5
    while (found := {pid for pid in descendants(os.getpid()) if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def is_running(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty once it has ended
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_error_while_a_trial_starts_leaves_none_training(tmp_path):
    with pytest.raises(ZeroDivisionError):
        pool_of(tmp_path, ZeroDivisionError(), []).run([0, 1, 2])
    assert (tmp_path / "0" / "STOP").exists(), "it is asked to save its state first"
    assert not still_running()
    assert not (tmp_path / "2").exists()


def test_a_trial_that_cannot_be_asked_to_stop_is_killed(tmp_path):
    (tmp_path / "0" / "STOP" / "in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        pool_of(tmp_path, ZeroDivisionError(), []).run([0, 1])
    assert not still_running()


def test_a_trial_that_cannot_be_made_ready_has_failed_and_the_others_train(tmp_path, capsys):
    told: list[tuple[int, int]] = []
    assert pool_of(tmp_path, CorruptError("plan.json: damaged"), told).run([0, 1, 2]) == 0
    assert told[0] == (1, ExitCode.CORRUPT)
    assert sorted(told[1:]) == [(0, 0), (2, 0)]
    assert RunDir(tmp_path / "1").exit_code() == ExitCode.CORRUPT
    assert "hvdtrain: plan.json: damaged" in capsys.readouterr().err


def test_two_do_not_train_one_sweep(tmp_path):
    directory = SweepDir(tmp_path)
    with (
        alone(directory),
        pytest.raises(ConfigError, match=r"is being trained by another process; .*sweep --collect"),
        alone(directory),
    ):
        pass
    with alone(directory):
        assert is_held(directory.lock)
    assert is_held(directory.lock) is False
