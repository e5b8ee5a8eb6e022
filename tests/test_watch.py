"""Status, logs, cancel and requeue, with a stub in Slurm's place: what is asked, how often, and what is said."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvdtrain.cli.show import go_on, name_of
from hvdtrain.errors import ConfigError
from hvdtrain.jobs import start
from hvdtrain.rundir import RunDir
from hvdtrain.studydir import StudyDir
from hvdtrain.watch import is_over, refuse_active, statuses
from tests.conftest import PROJECT
from tests.workdir import wait_for

PLAN = {"name": "digits", "epochs": 10, "steps_per_epoch": 22, "total_steps": 220, "global_batch_size": 64}
STUB = """#!/bin/bash
echo "$(basename "$0") $*" >> "$RECORD"
[ "$(basename "$0")" = squeue ] && cat "$QUEUE"
exit ${STUB_CODE:-0}
"""


def make_run(root: Path, short_id: str, job_id: str | None = None, **files: str) -> RunDir:
    run = RunDir(root / "digits" / f"20260101-000000-{short_id}")
    run.logs.mkdir(parents=True)
    run.plan.write_text(json.dumps(PLAN))
    if job_id is not None:
        run.job.write_text(json.dumps({"job_id": job_id, "scheduler": "slurm", "site": "x"}))
    for name, text in files.items():
        (run.path / name.replace("_", ".", 1) if "_" in name else run.path / name).write_text(text)
    return run


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stub programs; `slurm.queue` is what squeue prints."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for program in ("squeue", "scancel", "scontrol", "sbatch"):
        (tools / program).write_text(STUB)
        (tools / program).chmod(0o755)
    (tmp_path / "queue").write_text("")
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    return tmp_path


def asked(folder: Path) -> list[str]:
    record = folder / "record"
    return record.read_text().splitlines() if record.exists() else []


def test_a_hundred_runs_cost_one_query(slurm):
    (slurm / "queue").write_text("".join(f"{i}|RUNNING|None\n" for i in range(100)))
    runs = [make_run(slurm / "runs", f"a{i:05}", str(i)) for i in range(100)]
    rows = statuses(runs)
    assert [row.state for row in rows] == ["running"] * 100
    assert len(asked(slurm)) == 1


def test_without_a_job_nobody_is_asked(slurm):
    assert statuses([make_run(slurm / "runs", "abcdef")])[0].state == "unfinished"
    assert asked(slurm) == []


def test_progress_becomes_speed_and_time_left(slurm):
    (slurm / "queue").write_text("7|RUNNING|None\n")
    progress = {"time": time.time(), "epoch": 3, "step": 60, "total_steps": 220, "examples_per_s": 640.0}
    run = make_run(slurm / "runs", "abcdef", "7", progress_json=json.dumps(progress))
    row = statuses([run])[0]
    assert (row.epoch, row.step, row.examples_per_s) == (3, 60, 640.0)
    assert row.seconds_left == pytest.approx(160 * 64 / 640)


@pytest.mark.parametrize(
    ("queue", "files", "state", "reason"),
    {
        "waiting": ("7|PENDING|Resources\n", {}, "pending", "Resources"),
        "running": ("7|RUNNING|None\n", {}, "running", ""),
        "stopped": ("7|FAILED|NonZeroExitCode\n", {"EXIT": "75\n"}, "stopped", ""),
        "finished": ("7|COMPLETED|None\n", {"FINISHED": ""}, "finished", ""),
        "cancelled": ("7|CANCELLED|None\n", {}, "cancelled", ""),
        "forgotten by Slurm": ("", {}, "unfinished", ""),
        "queued again": ("7|PENDING|BeginTime\n", {"EXIT": "75\n"}, "pending", "BeginTime"),
    }.values(),
)
def test_states(slurm, queue, files, state, reason):
    (slurm / "queue").write_text(queue)
    row = statuses([make_run(slurm / "runs", "abcdef", "7", **files)])[0]
    assert (row.state, row.reason) == (state, reason)


def hvdtrain(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hvdtrain", *words, "--runs", str(folder / "runs")]
    return subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


def test_a_job_is_found_by_its_id_and_asked_to_stop(slurm):
    (slurm / "queue").write_text("7|RUNNING|None\n")
    run = make_run(slurm / "runs", "abcdef", "7")
    result = hvdtrain(slurm, "cancel", "7")
    assert result.returncode == 0, result.stderr
    assert run.stop.read_text() == "cancel 7\n"
    assert not any(line.startswith("scancel") for line in asked(slurm))


@pytest.mark.parametrize(("state", "options"), [("PENDING", []), ("RUNNING", ["--now"])])
def test_a_job_that_has_nothing_to_save_is_cancelled_at_once(slurm, state, options):
    (slurm / "queue").write_text(f"7|{state}|None\n")
    make_run(slurm / "runs", "abcdef", "7")
    assert hvdtrain(slurm, "cancel", "abcdef", *options).returncode == 0
    assert "scancel 7" in asked(slurm)


def test_what_is_not_in_the_queue_is_said_so(slurm):
    make_run(slurm / "runs", "abcdef", "7")
    result = hvdtrain(slurm, "cancel", "abcdef")
    assert result.returncode == 4
    assert "not in the queue" in result.stderr


def make_array(folder: Path) -> list[RunDir]:
    """Return the runs of an array of which one task has ended, two run and two wait."""
    states = ("COMPLETED", "RUNNING", "RUNNING", "PENDING", "PENDING")
    (folder / "queue").write_text("".join(f"7_{i}|{state}|None\n" for i, state in enumerate(states)))
    return [make_run(folder / "runs", f"abcdef.{i}", f"7_{i}") for i in range(len(states))]


def test_an_array_is_cancelled_though_some_of_its_tasks_have_ended(slurm):
    runs = make_array(slurm)
    result = hvdtrain(slurm, "cancel", "7")
    assert result.returncode == 0, result.stderr
    assert [run.stop.is_file() for run in runs] == [False, True, True, False, False]
    assert [line.partition(" ")[0] for line in asked(slurm)] == ["squeue", "scancel", "scancel"]


def test_a_refusal_for_one_task_keeps_no_other_from_being_cancelled(slurm):
    make_array(slurm)
    (slurm / "tools" / "scancel").write_text(STUB.replace("exit ${", '[ "$1" = 7_4 ] || exit 1\nexit ${'))
    result = hvdtrain(slurm, "cancel", "7")
    assert result.returncode == 3
    assert "job 7_3: scancel refuses" in result.stderr
    assert "job 7_4 is cancelled" in result.stderr


def test_an_array_that_has_ended_is_said_to_be_gone(slurm):
    make_array(slurm)
    (slurm / "queue").write_text("7_0|COMPLETED|None\n")
    result = hvdtrain(slurm, "cancel", "7")
    assert result.returncode == 4
    assert "not in the queue" in result.stderr


def test_a_run_without_a_job_cannot_be_cancelled_or_queued_again(slurm):
    make_run(slurm / "runs", "abcdef")
    for verb in ("cancel", "requeue"):
        result = hvdtrain(slurm, verb, "abcdef")
        assert result.returncode == 4
        assert "no batch job" in result.stderr


def test_a_refused_requeue_says_how_to_go_on(slurm):
    make_run(slurm / "runs", "abcdef", "7")
    result = hvdtrain(slurm, "requeue", "abcdef", STUB_CODE="1")
    assert result.returncode == 3
    assert "hvdtrain submit --resume abcdef" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["run", "submit"])
def test_a_run_whose_job_is_there_is_not_started_a_second_time(slurm, verb):
    config = PROJECT / "configs" / "digits_cnn.yaml"
    run = make_run(slurm / "runs", "abcdef", "7", FINISHED="")
    run.finished.unlink()
    (run.config).write_text(config.read_text())
    (slurm / "queue").write_text("7|RUNNING|None\n")
    more = ["--site", str(PROJECT / "configs" / "sites" / "local-cluster.yaml")] if verb == "submit" else []
    result = hvdtrain(slurm, verb, "--resume", "abcdef", *more)
    assert result.returncode == 2
    assert "job 7 of this run is RUNNING" in result.stderr


def test_logs_show_the_jobs_log_or_a_ranks(slurm):
    run = make_run(slurm / "runs", "abcdef", "7")
    assert hvdtrain(slurm, "logs", "abcdef").returncode == 4
    (run.logs / "slurm-7.out").write_text("of the job\n")
    run.log(1).write_text("of rank 1\n")
    assert hvdtrain(slurm, "logs", "abcdef").stdout == "of the job\n"
    assert hvdtrain(slurm, "logs", "abcdef", "--rank", "1").stdout == "of rank 1\n"


@pytest.mark.parametrize(("code", "cause"), [(143, "it was told to end"), (9, "exit code 9")])
def test_a_run_that_ends_here_leaves_its_exit_code_for_why_and_logs(slurm, code, cause):
    run = make_run(slurm / "runs", "abcdef")
    run.script.write_text(f"exit {code}\n")
    assert start(run) == code
    assert run.exit_code() == code
    assert hvdtrain(slurm, "logs", "abcdef", "--follow").returncode == 0
    assert cause in hvdtrain(slurm, "why", "abcdef").stdout


def test_two_do_not_train_in_one_run_directory(slurm):
    """Whoever trains keeps others out until its last process has ended, also by SIGKILL; `logs -f` ends then, too."""
    run = make_run(slurm / "runs", "abcdef")
    run.script.write_text("echo $$ > pid; exec sleep 1000\n")
    begin = (
        "from pathlib import Path; from hvdtrain.jobs import start; from hvdtrain.rundir import RunDir; "
        f"start(RunDir(Path({str(run.path)!r})))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", begin], cwd=slurm)
    try:
        wait_for(lambda: (slurm / "pid").exists() and (slurm / "pid").read_text(), "the training")
        assert [row.state for row in statuses([run])] == ["running"]
        with pytest.raises(ConfigError, match=r"run abcdef is being trained on this machine, and two may not"):
            refuse_active(run)
        with pytest.raises(ConfigError, match=r"run abcdef is being trained on this machine"):
            start(run)
        assert "it is running on this machine" in hvdtrain(slurm, "why", "abcdef").stdout
        launcher.kill()
        launcher.wait()
        assert not is_over(run), "the training has survived its launcher"
    finally:
        os.kill(int((slurm / "pid").read_text()), signal.SIGKILL)
        launcher.kill()
    wait_for(lambda: is_over(run), "its end")
    assert [row.state for row in statuses([run])] == ["unfinished"]
    refuse_active(run)
    assert hvdtrain(slurm, "logs", "abcdef", "--follow").returncode == 0
    assert "it was killed together with the command" in hvdtrain(slurm, "why", "abcdef").stdout


def test_hints_continue_a_run_where_it_was_started(slurm):
    local, job = make_run(slurm / "runs", "aaaaaa", EXIT="75\n"), make_run(slurm / "runs", "bbbbbb", "7", EXIT="75\n")
    assert "hvdtrain run --resume aaaaaa goes on" in hvdtrain(slurm, "why", local.short_id).stdout
    assert "hvdtrain submit --resume bbbbbb goes on" in hvdtrain(slurm, "why", job.short_id).stdout
    fix = json.loads(hvdtrain(slurm, "why", local.short_id, "--json").stdout)["fix"]
    assert "hvdtrain run --resume aaaaaa goes on" in fix


def test_a_path_in_a_hint_stays_as_it_is_whatever_words_are_in_it(slurm):
    run = make_run(slurm / "OTHER_RUNS", "aaaaaa", EXIT="75\n")
    assert f"--resume {run.path.relative_to(slurm)} goes on" in hvdtrain(slurm, "why", str(run.path)).stdout


def test_a_name_in_a_hint_is_found_without_the_option_that_says_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of(make_run(tmp_path / "runs", "aaaaaa")) == "aaaaaa"
    assert name_of(make_run(tmp_path / "my other", "aaaaaa")) == "'my other/digits/20260101-000000-aaaaaa'"
    assert name_of(StudyDir(tmp_path / "studies" / "x" / "20260101-000000-aaaaaa")) == "aaaaaa"
    assert name_of(StudyDir(tmp_path / "runs" / "x" / "20260101-000000-aaaaaa")) == "runs/x/20260101-000000-aaaaaa"
    assert go_on(make_run(tmp_path / "others", "bbbbbb")).endswith("run --resume others/digits/20260101-000000-bbbbbb")


def test_following_ends_with_the_job_whose_last_words_come_after_the_run(slurm):
    run = make_run(slurm / "runs", "abcdef", "7")
    (slurm / "queue").write_text("7|RUNNING|None\n")
    (run.logs / "slurm-7.out").write_text("first\n")
    command = [sys.executable, "-m", "hvdtrain", "logs", "abcdef", "--follow", "--runs", str(slurm / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    with open(run.logs / "slurm-7.out", "a") as file:
        file.write("second\n")
    run.finished.touch()
    assert process.stdout.readline() == "second\n"
    time.sleep(1.0)
    with open(run.logs / "slurm-7.out", "a") as file:
        file.write("done\n")
    (slurm / "queue").write_text("7|COMPLETED|None\n")
    rest, _ = process.communicate(timeout=30)
    assert rest == "done\n"


def test_a_table_is_short_enough_for_a_terminal(slurm):
    make_run(slurm / "runs", "abcdef", "7")
    (slurm / "queue").write_text("7|PENDING|Priority\n")
    result = hvdtrain(slurm, "status")
    assert "pending (Priority)" in result.stdout
    assert "Traceback" not in result.stderr


def test_following_shows_the_new_job_and_not_the_old_one(slurm):
    run = make_run(slurm / "runs", "abcdef", "8")
    (slurm / "queue").write_text("8|RUNNING|None\n")
    (run.logs / "slurm-7.out").write_text("of the old job\n")
    command = [sys.executable, "-m", "hvdtrain", "logs", "abcdef", "--follow", "--runs", str(slurm / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    (run.logs / "slurm-8.out").write_text("of the new job\n")
    time.sleep(1.0)
    (slurm / "queue").write_text("8|COMPLETED|None\n")
    out, _ = process.communicate(timeout=30)
    assert out == "of the new job\n"


def test_the_id_of_an_array_names_all_of_its_runs(slurm):
    for index in range(3):
        make_run(slurm / "runs", f"abcdef.{index}", f"7_{index}")
    make_run(slurm / "runs", "bbbbbb", "77")
    (slurm / "queue").write_text("7_0|RUNNING|None\n7_1|PENDING|Priority\n")
    for name in ("7", "abcdef"):
        rows = json.loads(hvdtrain(slurm, "status", name, "--json").stdout)
        assert [row["job_id"] for row in rows] == ["7_0", "7_1", "7_2"]
    result = hvdtrain(slurm, "why", "7")
    assert result.returncode == 4
    assert "7 is an array of 3 runs; name one of them: 7_0, 7_1, 7_2" in result.stderr


def test_a_slurm_that_has_gone_is_said_at_once(slurm, monkeypatch):
    make_run(slurm / "runs", "abcdef", "7")
    monkeypatch.setenv("SLURM_CONF", str(slurm / "gone.conf"))
    result = hvdtrain(slurm, "cancel", "abcdef")
    assert result.returncode == 3
    assert "gone.conf, and there is no such file: unset SLURM_CONF" in result.stderr


def test_the_job_that_started_last_counts(slurm):
    run = make_run(slurm / "runs", "abcdef", "7")
    past = time.time() - 100
    os.utime(run.job, (past, past))
    run.lock.symlink_to("9")
    assert run.job_id() == "9"
    run.job.write_text(json.dumps({"job_id": "10"}))
    future = time.time() + 100
    os.utime(run.job, (future, future))
    assert run.job_id() == "10"


GARBAGE = {
    "job.json": ["\x00\xff", '{"job_id": 7}', '{"job_id": "7", "scheduler": "lsf"}', "[]"],
    "metrics.jsonl": ["[1]\n{}\nnot json\n", "\x00"],
    "progress.json": ['{"time": "x"}', "[]", "\x00"],
    "EXIT": ["", "x"],
    "plan.json": ["", "[]", "{}"],
    "summary.json": ["", "[]", '{"metrics": {"loss": "x"}}'],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GARBAGE.items() for text in texts])
def test_a_damaged_run_hides_no_other_and_shows_no_traceback(slurm, name, text):
    good, bad = make_run(slurm / "runs", "aaaaaa", "7"), make_run(slurm / "runs", "bbbbbb", "8")
    (bad.path / name).write_bytes(text.encode("latin-1"))
    (slurm / "queue").write_text("7|RUNNING|None\n")
    for verb in ("status", "list"):
        result = hvdtrain(slurm, verb)
        assert result.returncode == 0, result.stderr
        assert good.short_id in result.stdout
        assert bad.short_id in result.stdout
    for verb in ("why", "cancel", "logs"):
        assert "Traceback" not in hvdtrain(slurm, verb, bad.short_id).stderr
