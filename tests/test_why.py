"""The plain cause of a run's end, from states, codes and logs as tools really print them."""

import pytest

from hvdtrain.control import of_last_start
from hvdtrain.schedulers.batch import START
from hvdtrain.why import LOGS, STATES, Evidence, cause_of

SEEN = {
    "finished": Evidence(is_finished=True, log="DUE TO TIME LIMIT"),
    "stopped": Evidence(exit_code=75, stop="the time limit is near", job={"JobState": "FAILED"}),
    "out-of-memory": Evidence(
        exit_code=137,
        log="slurmstepd: error: Detected 1 oom_kill event in StepId=123.0.",
    ),
    "time-limit": Evidence(log="slurmstepd: error: *** STEP 12.0 CANCELLED AT 2026 DUE TO TIME LIMIT ***"),
    "preempted": Evidence(log="slurmstepd: error: *** JOB 9 CANCELLED AT 2026 DUE TO PREEMPTION ***"),
    "node-failure": Evidence(job={"JobState": "NODE_FAIL"}),
    "cancelled": Evidence(job={"JobState": "CANCELLED"}, log="srun: Job step aborted"),
    "pmi-mismatch": Evidence(
        exit_code=1,
        log="srun: error: Couldn't find the specified plugin name for mpi/pmix looking at all files\n"
        "srun: error: cannot find mpi plugin for mpi/pmix",
    ),
    "nccl": Evidence(exit_code=1, log="horovod: NCCL error: unhandled system error, ncclSystemError"),
    "no-space": Evidence(exit_code=73, log="hvdtrain: /x/checkpoints: no space left to write it"),
    "missing-data": Evidence(exit_code=1, failure={"error": "FileNotFoundError", "message": "data.npz", "rank": 1}),
    "out-of-sync": Evidence(exit_code=70, log="hvdtrain: replicas out of sync at step 40: w differs on rank 1"),
    "not-finite": Evidence(exit_code=70, log="hvdtrain: not finite at step 3: w on rank 0 holds NaN"),
    "rank-killed": Evidence(
        exit_code=137, log="slurmstepd: error: *** STEP 1.0 ON node1 CANCELLED AT 2026 ***\nsrun: node2: task 1: Killed"
    ),
    "another-job": Evidence(exit_code=3, log="hvdtrain: job 7 is training in /runs/x; this one ends"),
    "gpu-memory": Evidence(
        exit_code=1, failure={"error": "ResourceExhaustedError", "message": "OOM when allocating tensor", "rank": 0}
    ),
    "launch-failure": Evidence(job={"JobState": "BOOT_FAIL"}),
    "exception": Evidence(exit_code=1, failure={"error": "ZeroDivisionError", "message": "by zero", "rank": 3}),
    "config": Evidence(exit_code=2, log="hvdtrain: something else"),
    "pending": Evidence(job={"JobState": "PENDING", "Reason": "PartitionTimeLimit"}),
    "running": Evidence(job={"JobState": "RUNNING"}),
    "interrupted": Evidence(exit_code=130, is_local=True, log="process rank 1 with PID 7 exited on signal 15"),
    "unknown": Evidence(exit_code=5),
}


@pytest.mark.parametrize("name", SEEN)
def test_each_cause_is_told(name):
    cause = cause_of(SEEN[name])
    assert cause.name == name, cause
    assert cause.text
    assert cause.fix


@pytest.mark.parametrize(("number", "words"), [(130, "Ctrl-C"), (143, "SIGTERM"), (129, "SIGHUP")])
def test_a_run_that_was_stopped_here_is_told_from_one_whose_rank_was_killed(number, words):
    cause = cause_of(Evidence(exit_code=number, is_local=True))
    assert words in cause.text
    assert cause_of(Evidence(exit_code=number)).name != "interrupted"


def test_every_pattern_has_an_example():
    assert {known.name for known in (*STATES, *LOGS)} <= set(SEEN)


def test_what_the_first_rank_said_counts_more_than_what_its_end_made_others_say():
    evidence = Evidence(
        exit_code=1,
        failure={"error": "MemoryError", "message": "Unable to allocate 3 GiB", "rank": 0},
        log="srun: error: node2: task 1: Killed\nslurmstepd: error: *** STEP 1.0 ON node1 CANCELLED AT 2026 ***",
    )
    assert cause_of(evidence).name == "out-of-memory"


def test_a_run_that_waits_is_not_blamed_for_its_last_start():
    evidence = Evidence(job={"JobState": "PENDING", "Reason": "BeginTime"}, log="DUE TO TIME LIMIT")
    assert "queued again" in cause_of(evidence).text


def test_an_exception_after_a_requeue_is_told_and_not_the_requeue():
    evidence = Evidence(
        exit_code=1,
        failure={"error": "ValueError", "message": "bad", "rank": 0, "is_echo": False},
        job={"JobState": "FAILED"},
        log="slurmstepd: error: *** JOB 5 ON node1 CANCELLED AT 2026 DUE TO JOB REQUEUE ***",
    )
    assert cause_of(evidence).name == "exception"


def test_only_the_last_start_of_a_job_counts():
    log = f"*** JOB 5 ON node1 CANCELLED DUE TO PREEMPTION ***\n{START} of /runs/x\nsrun: task 1: Killed\n"
    assert cause_of(Evidence(exit_code=69, log=of_last_start(log))).name == "rank-killed"
