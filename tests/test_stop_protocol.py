"""The stop protocol of batch scripts, in a real shell under stub programs."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_batch_script import recorded, rendered, run_under_stubs

WORKER = """#!/bin/bash
for i in $(seq 100); do
  if [ -e "$RUN/STOP" ]; then cp "$RUN/STOP" "$RUN/seen"; echo 75 > "$RUN/EXIT"; exit 0; fi
  sleep 0.1
done
"""
PYTHON = """#!/bin/bash
[ "$3" = outcome ] && { [ -e "$RUN/EXIT" ] && exit "$(cat "$RUN/EXIT")"; exit "${@: -1}"; }
"""

SCONTROL = """#!/bin/bash
if [ "$2" = show ]; then echo "JobId=7 JobName=x JobState=${STATE:-RUNNING} Reason=None"; exit; fi
printf '%s\\0' "$@" > "$RECORD/scontrol"
"""


def start_job(folder: Path, text: str, worker: str, **environ: str) -> subprocess.Popen:
    tools, run = folder / "tools", folder / "run"
    for place in (tools, run):
        place.mkdir()
    for program, body in {"srun": worker, "python": PYTHON, "scontrol": SCONTROL, "squeue": "#!/bin/bash\n"}.items():
        (tools / program).write_text(body)
        (tools / program).chmod(0o755)
    text = re.sub(r"^keep=\"", 'keep=" RECORD RUN STATE', text, count=1, flags=re.MULTILINE)
    names = {"PATH": f"{tools}:/usr/bin:/bin", "RECORD": str(folder), "RUN": str(run), "HVDTRAIN_PYTHON": "python"}
    process = subprocess.Popen(
        ["bash", "-c", text, "script", str(run)],
        env={**names, "SLURM_JOB_ID": "7", **environ},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    while not (run / "JOB").is_symlink() and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.3)  # the traps are set right after
    return process


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGUSR1, "time limit"), (signal.SIGTERM, "told to end")], ids=["USR1", "TERM"]
)
def test_a_stop_is_passed_on_and_the_job_is_queued_again(tmp_path, number, word):
    job = start_job(tmp_path, rendered(), WORKER)
    job.send_signal(number)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 75, errors
    assert word in (tmp_path / "run" / "seen").read_text()
    assert recorded(tmp_path / "scontrol") == ["requeue", "7"]


def test_many_signals_do_not_end_the_wait_for_the_ranks(tmp_path):
    job = start_job(tmp_path, rendered(), WORKER.replace("then cp", "then sleep 1; cp"))
    for _ in range(5):
        job.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert (tmp_path / "run" / "seen").exists(), "the ranks came to their end"


@pytest.mark.parametrize(("restarts", "is_requeued"), [("9", True), ("10", False)])
def test_the_budget_of_requeues_is_kept(tmp_path, restarts, is_requeued):
    job = start_job(tmp_path, rendered("slurm.max_requeues=10"), WORKER, SLURM_RESTART_COUNT=restarts)
    job.send_signal(signal.SIGUSR1)
    _, errors = job.communicate(timeout=30)
    assert (tmp_path / "scontrol").exists() == is_requeued
    assert ("no more" in errors) != is_requeued


def test_a_cancelled_run_is_not_queued_again(tmp_path):
    job = start_job(tmp_path, rendered(), WORKER)
    (tmp_path / "run" / "STOP").write_text("cancel 7\n")
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize("state", ["CANCELLED", "COMPLETING", "PREEMPTED", "TIMEOUT", "PENDING"])
def test_a_job_that_slurm_ends_by_itself_is_left_to_slurm(tmp_path, state):
    job = start_job(tmp_path, rendered(), WORKER, STATE=state)
    job.terminate()
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert not (tmp_path / "scontrol").exists()


def test_a_job_that_was_cancelled_before_it_began_does_not_begin(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "STOP").write_text("cancel 7\n")
    result = run_under_stubs(rendered(), tmp_path)
    assert result.returncode == 75
    assert not (tmp_path / "srun").exists()
    (run / "STOP").write_text("cancel 6\n")  # of an earlier job of this run
    assert run_under_stubs(rendered(), tmp_path).returncode == 0
    assert (tmp_path / "srun").exists()


def test_who_ends_for_a_reason_of_its_own_is_not_queued_again(tmp_path):
    job = start_job(tmp_path, rendered(), '#!/bin/bash\nsleep 1; echo 75 > "$RUN/EXIT"\n')  # training.max_minutes
    job.communicate(timeout=30)
    assert job.returncode == 75
    assert not (tmp_path / "scontrol").exists()


def test_a_scheduler_that_does_not_answer_at_once_is_asked_again(tmp_path):
    flaky = SCONTROL.replace(
        "#!/bin/bash\n", '#!/bin/bash\nif [ ! -e "$RECORD/asked" ]; then touch "$RECORD/asked"; exit 1; fi\n'
    )
    text = rendered().replace("sleep 5", "sleep 0.1")
    job = start_job(tmp_path, text, WORKER)
    (tmp_path / "tools" / "scontrol").write_text(flaky)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert recorded(tmp_path / "scontrol") == ["requeue", "7"]


def test_modules_are_found_in_a_shell_that_does_not_know_them(tmp_path):
    init = tmp_path / "home" / "init"
    init.mkdir(parents=True)
    (init / "bash").write_text('[ -z "$NEVER_SET" ] && module() { echo "$*" > "$RECORD/module"; }\n')
    text = rendered("slurm.modules=[openmpi/5.0]", 'slurm.prologue=["[ -z $ALSO_NEVER_SET ] && cd ."]')
    result = run_under_stubs(text.replace("module() {", "ignored() {"), tmp_path, MODULESHOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "module").read_text() == "load openmpi/5.0\n"


def test_a_task_of_an_array_requeues_itself_alone(tmp_path):
    text = rendered("slurm.array=0-2").replace("run_dir=$1.$SLURM_ARRAY_TASK_ID", "run_dir=$1")
    job = start_job(tmp_path, text, WORKER, SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="2")
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=30)
    assert recorded(tmp_path / "scontrol") == ["requeue", "70_2"]


def test_a_failure_keeps_its_code_and_is_not_queued_again(tmp_path):
    job = start_job(tmp_path, rendered(), "#!/bin/bash\nexit 70\n")
    job.communicate(timeout=30)
    assert job.returncode == 70
    assert not (tmp_path / "scontrol").exists()


def test_the_second_job_on_a_run_directory_is_refused(tmp_path):
    first = start_job(tmp_path, rendered(), WORKER)
    (tmp_path / "tools" / "squeue").write_text("#!/bin/bash\necho running\n")
    environ = {**os.environ, "PATH": f"{tmp_path}/tools:/usr/bin:/bin", "SLURM_JOB_ID": "8"}
    command = ["bash", "-c", rendered(), "script", str(tmp_path / "run")]
    environ["HVDTRAIN_PYTHON"] = "python"
    second = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "job 7 is training in" in second.stderr
    assert not (tmp_path / "run" / "STOP").exists(), "the first one is left alone"
    first.terminate()
    first.communicate(timeout=30)
