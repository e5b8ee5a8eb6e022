"""The whole way through the real command line: real Horovod on 2 ranks, real faults, real signals.

TensorFlow's import dominates each launch, so one launch serves several tests.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import sys

import pytest

from hvdtrain.rundir import RunDir, find_runs
from tests.workdir import (
    Outcome,
    Workdir,
    mpirun,
    records,
)

pytestmark = pytest.mark.beside

# -- a run that goes well -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Done:
    """A folder with one finished run in it, and how that run ended."""

    folder: Workdir
    run: RunDir
    outcome: Outcome


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, require_horovod: None) -> Done:
    folder = Workdir(tmp_path_factory.mktemp("a b's") / "work")
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 0, outcome.err
    return Done(folder, folder.run, outcome)


def test_a_run_leaves_everything_in_its_directory(done):
    names = {path.name for path in done.run.path.iterdir()}
    assert {
        "config.yaml", "plan.json", "job.sh", "command.txt", "environment.json", "logs", "metrics.jsonl",
        "checkpoints", "summary.json", "FINISHED",
    } <= names  # fmt: skip
    assert {"rank_0000.log", "rank_0001.log"} <= {path.name for path in done.run.logs.iterdir()}
    done.folder.assert_nothing_is_left()


def test_talk_goes_to_standard_error(done):
    assert done.outcome.out == ""
    for text in ("demo: the plan", "hello from my own code", "epoch 5/5", "in sync:", "done: test accuracy"):
        assert done.outcome.err.count(text) == 1, text


def test_environment_maps_ranks_to_hosts_and_cores(done):
    found = json.loads(done.run.environment.read_text())
    assert [rank["rank"] for rank in found["ranks"]] == [0, 1]
    assert all(rank["host"] and rank["cores"] for rank in found["ranks"])
    assert found["strategy"] == "horovod"
    cores = [set(rank["cores"]) for rank in found["ranks"]]
    if len(os.sched_getaffinity(0)) > 1:
        assert cores[0].isdisjoint(cores[1])


def test_one_rank_writes_each_record_once(done):
    assert [record["epoch"] for record in records(done.run, "epoch")] == [1, 2, 3, 4, 5]
    assert [record["step"] for record in records(done.run, "epoch")] == [6, 12, 18, 24, 30]
    assert len(records(done.run, "start")) == len(records(done.run, "end")) == 1
    assert [record["path"] for record in records(done.run, "checkpoint")] == [
        f"step_{step:08d}" for step in (6, 12, 18, 24, 30)
    ]
    assert sorted(path.name for path in done.run.checkpoints.iterdir()) == [f"step_{step:08d}" for step in (18, 24, 30)]


def test_the_model_learns_and_the_summary_says_so(done):
    summary = done.folder.summary(done.run)
    assert summary["metrics"]["val_accuracy"] > 0.8, "chance is 0.25"
    assert (summary["num_ranks"], summary["epochs"], summary["step"]) == (2, 5, 30)
    assert summary["sync_checks"] > 5
    assert summary["digest"]


def test_the_script_is_what_render_prints(done):
    outcome = done.folder.hvdtrain("render", "demo.yaml", "--here")
    assert outcome.out == done.run.script.read_text()


def test_evaluate_gives_the_last_epochs_numbers(done):
    outcome = done.folder.hvdtrain("evaluate", done.run.short_id, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    last = records(done.run, "epoch")[-1]
    assert found["step"] == 30
    for name, value in found["metrics"].items():
        assert value == pytest.approx(last[f"val_{name}"], rel=1e-6), name
    assert {"loss", "accuracy"} <= found["metrics"].keys()


def test_list_shows_the_run(done):
    rows = json.loads(done.folder.hvdtrain("list", "--json").out)
    row = next(row for row in rows if row["id"] == done.run.short_id)
    assert (row["name"], row["state"], row["ranks"]) == ("demo", "finished", 2)
    assert row["metrics"]["val_accuracy"] > 0.8


def test_a_finished_run_is_not_trained_again(done, tmp_path):
    before = done.run.summary.read_bytes()
    by_hand = f"HVDTRAIN_PYTHON={sys.executable} {shlex.join(['bash', str(done.run.script), str(done.run.path)])}"
    for outcome in (
        done.folder.hvdtrain("run", "--resume", str(done.run.path)),
        Workdir(tmp_path).call("bash", "-c", by_hand),
    ):
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("is finished; nothing is left to train") == 1
    assert done.run.summary.read_bytes() == before
    assert len(records(done.run, "start")) == 1


def test_a_run_repeats_from_its_directory_alone(done, tmp_path):
    """The same bits again from the run's own config.yaml, from a folder where nothing else lies."""
    elsewhere = Workdir(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    outcome = elsewhere.hvdtrain("run", str(done.run.config))
    assert outcome.code == 0, outcome.err
    assert elsewhere.summary()["digest"] == done.folder.summary(done.run)["digest"]


# -- resuming -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory, require_horovod: None) -> Done:
    folder = Workdir(tmp_path_factory.mktemp("failed") / "work")
    folder.fault("raise")
    outcome = folder.hvdtrain("run", "demo.yaml")
    shutil.copytree(folder.path / "runs", folder.path / "copy")
    return Done(folder, folder.run, outcome)


def test_one_rank_that_raises_stops_all_and_speaks_first(failed):
    err = failed.outcome.err
    assert failed.outcome.code == 1
    assert err.count("Traceback") == 1
    assert err.count("ArithmeticError: a bad day in epoch 3") == 2, "the traceback, and the line that sums up"
    record = json.loads(failed.run.failure(1).read_text())
    assert failed.outcome.ended - record["time"] < 60, "the others stopped within seconds"
    before = err[: err.index("[rank 1] Traceback")]
    assert "rror" not in before, "nothing comes before the first failing rank's words"
    assert "rank 1 failed first: ArithmeticError: a bad day" in err
    assert "-----" not in err
    assert "mpirun" not in err
    assert "rank_0001.log" in err
    failed.folder.assert_nothing_is_left()


def test_a_failed_run_is_not_finished(failed):
    assert not (failed.folder.path / "copy" / "demo" / failed.run.path.name / "FINISHED").exists()
    assert [record["epoch"] for record in records(failed.run, "epoch")][:2] == [1, 2]


def test_evaluating_a_failed_run_leaves_the_record_of_its_end(failed):
    before = failed.run.log(0).read_bytes(), failed.run.failure(1).read_bytes()
    outcome = failed.folder.hvdtrain("evaluate", failed.run.short_id, "--json")
    assert outcome.code == 0, outcome.err
    assert failed.run.state() == "failed"
    assert (failed.run.log(0).read_bytes(), failed.run.failure(1).read_bytes()) == before


def test_resume_continues_and_ends_with_the_same_bits(failed, done):
    failed.folder.repair()
    outcome = failed.folder.hvdtrain("run", "demo.yaml", "--resume")
    assert outcome.code == 0, outcome.err
    assert "resuming after epoch 2 (step 12)" in outcome.err
    assert failed.run.finished.exists()
    assert [record["epoch"] for record in records(failed.run, "epoch")] == [1, 2, 3, 4, 5]
    assert failed.folder.summary()["digest"] == done.folder.summary(done.run)["digest"]


def test_resume_on_another_number_of_ranks_with_the_same_global_batch(failed):
    root = failed.folder.path / "copy"
    failed.folder.repair()
    outcome = failed.folder.hvdtrain("run", "--resume", failed.run.short_id, "--runs", str(root), "--ranks", "1")
    assert outcome.code == 0, outcome.err
    assert "2 -> 1 replicas  batch per replica 16 -> 32; global batch, sample order" in outcome.err
    assert "resuming after epoch 2" in outcome.err
    run = find_runs(root)[0]
    assert run.finished.exists()

    # A rank that died after the last epoch, before the end was noted: the numbers stay what they are.
    before = failed.folder.summary(run)
    run.finished.unlink()
    run.summary.unlink()
    outcome = failed.folder.hvdtrain("run", "--resume", str(run.path), "--ranks", "1")
    assert outcome.code == 0, outcome.err
    after = failed.folder.summary(run)
    assert {key: after[key] for key in ("metrics", "digest", "step")} == {
        key: before[key] for key in ("metrics", "digest", "step")
    }
    assert json.loads((run.checkpoints / "step_00000030" / "state.json").read_text())["epochs_done"] == 5


def test_resume_refuses_another_global_batch_and_another_configuration(tmp_path, require_horovod):
    folder = Workdir(tmp_path, training={"global_batch_size": None, "batch_size_per_replica": 16})
    assert folder.hvdtrain("plan", "demo.yaml", "--new-run").code == 0
    outcome = folder.hvdtrain("run", "demo.yaml", "--resume", "--ranks", "3")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("the global batch would change from 32 (2 replicas) to 48 (3 replicas)") == 1
    assert "training.global_batch_size" in outcome.err
    outcome = folder.hvdtrain("run", "demo.yaml", "--resume", folder.run.short_id, "--set", "training.seed=9")
    assert outcome.code == 2
    assert "it differs in training" in outcome.err
    assert not folder.run.metrics.exists()


# -- faults -------------------------------------------------------------------------------------


def test_a_tampered_replica_stops_the_run_and_the_save_in_flight_is_finished(tmp_path, require_horovod):
    """The disk takes 2 s for the checkpoint of epoch 1; the fault comes three steps after it, on both ranks."""
    folder = Workdir(tmp_path)
    (tmp_path / "slow_disk").touch()
    folder.fault("tamper", epoch=2)
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 70, outcome.err
    assert outcome.err.count("hidden/kernel differs between ranks 0 and 1") == 1
    assert "replicas out of sync at step " in outcome.err
    assert "Traceback" not in outcome.err
    assert [path.name for path in folder.run.checkpoints.iterdir()] == ["step_00000006"]
    folder.assert_nothing_is_left()


def test_a_rank_that_exits_passes_its_code_on_after_the_save_in_flight(tmp_path, require_horovod):
    folder = Workdir(tmp_path)
    (tmp_path / "slow_disk").touch()
    folder.fault("exit", epoch=2)
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == 7, outcome.err
    assert [path.name for path in folder.run.checkpoints.iterdir()] == ["step_00000006"]
    assert "rank 1" in outcome.err
    assert "-----" not in outcome.err
    folder.assert_nothing_is_left()


def test_a_killed_rank_is_told_from_a_failing_one(tmp_path, require_horovod):
    folder = Workdir(tmp_path)
    folder.fault("wait", epoch=2)
    outcome = folder.stop_in_the_middle(lambda _, rank: os.kill(rank, signal.SIGKILL), "run", "demo.yaml")
    assert outcome.code == 69, outcome.err
    assert re.search(r"rank [01] ended without a word .* killed", outcome.err)
    assert "--resume" in outcome.err
    assert "-----" not in outcome.err
    folder.assert_nothing_is_left()


def test_a_stopped_run_says_how_to_go_on_and_goes_on(tmp_path, done):
    """Stopped by Ctrl-C, continued, stopped by SIGTERM, continued to the end: the bits of an undisturbed run."""
    folder = Workdir(tmp_path)
    folder.fault("wait", epoch=2)
    outcome = folder.stop_in_the_middle(lambda process, _: process.send_signal(signal.SIGINT), "run", "demo.yaml")
    assert outcome.code == 130, outcome.err
    assert f"run --resume {folder.run.short_id}" in outcome.err
    assert "step_00000006" in outcome.err
    assert outcome.seconds < 60
    folder.assert_nothing_is_left()

    folder.repair()
    folder.fault("wait", epoch=4)
    resume = ("run", "--resume", folder.run.short_id)
    outcome = folder.stop_in_the_middle(lambda process, _: process.send_signal(signal.SIGTERM), *resume)
    assert outcome.code == 143, outcome.err
    assert "step_00000018" in outcome.err
    folder.assert_nothing_is_left()

    folder.repair()
    outcome = folder.hvdtrain(*resume)
    assert outcome.code == 0, outcome.err
    assert folder.summary()["digest"] == done.folder.summary(done.run)["digest"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, require_horovod: None) -> Workdir:
    """A folder with a run directory for 2 ranks, not yet trained."""
    folder = Workdir(tmp_path_factory.mktemp("planned"))
    assert folder.hvdtrain("plan", "demo.yaml", "--new-run").code == 0
    return folder


def test_three_ranks_in_a_world_of_two_are_refused(planned):
    command = mpirun(3, sys.executable, "-m", "hvdtrain.train", str(planned.run.path))
    outcome = planned.call(*command)
    assert outcome.code == 3, outcome.err
    assert outcome.err.count("2 ranks were planned, but Open MPI started 3") == 1
    assert "Traceback" not in outcome.err


def test_a_worker_started_alone_is_refused(planned):
    outcome = planned.call(sys.executable, "-m", "hvdtrain.train", str(planned.run.path))
    assert outcome.code == 3, outcome.err
    assert outcome.err.count("2 ranks were planned, but this process was started alone") == 1
    assert len(outcome.err.splitlines()) == 1


# -- the user's own errors, found before training -----------------------------------------------


@pytest.mark.parametrize(
    ("source", "code", "expected"),
    [
        ("nan_arrays", 2, "my_code:nan_arrays: x_train holds NaN or infinity in 1 of 192 examples, the first is"),
        ("broken_arrays", 1, "LookupError: my own disk is empty\n"),
    ],
)
def test_bad_data_are_told_once_before_training(tmp_path, require_horovod, source, code, expected):
    folder = Workdir(tmp_path, data={"source": f"my_code:{source}"})
    outcome = folder.hvdtrain("run", "demo.yaml")
    assert outcome.code == code, outcome.err
    traceback = int(code == 1)
    assert outcome.err.count(expected) == 1 + traceback, outcome.err
    assert outcome.err.count("Traceback") == traceback
    assert ('in broken_arrays\n    raise LookupError("my own disk is empty")' in outcome.err) == bool(traceback)
    assert not folder.run.metrics.exists(), "no epoch began"
    folder.assert_nothing_is_left()


def test_check_deep_finds_what_a_run_would(tmp_path, require_horovod):
    folder = Workdir(tmp_path, model={"source": "my_code:modle"})
    outcome = folder.hvdtrain("check", "demo.yaml", "--deep")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("has no function 'modle'; did you mean 'model'?") == 1
    assert "Traceback" not in outcome.err
    assert not (folder.path / "runs").exists()
    outcome = folder.hvdtrain("check", "demo.yaml", "--deep", "--set", "model.source=my_code:model")
    assert outcome.code == 0, outcome.err
    assert "ok, model and data too" in outcome.err
