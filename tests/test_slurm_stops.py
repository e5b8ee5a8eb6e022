"""Jobs on a real Slurm that are stopped, in every way there is, and go on."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.jobs import LONG


def test_the_time_limit_saves_requeues_and_ends_with_the_same_weights(bench, slow_digest):
    # Slurm looks at time limits every 30 s, so the signal comes 5 to 35 s after the start: training takes longer.
    limits = ("--set", "slurm.time_limit_min=1", "--set", "slurm.stop_lead_s=55")
    job = bench.submit_slow("--nodes", "2", *limits, pause_s=2.5)
    bench.wait(job, "RUNNING")
    bench.wait(job, "PENDING", "COMPLETED")
    bench.hurry()
    bench.wait(job, "COMPLETED")
    assert "stopped: the time limit is near" in bench.log(job)
    assert "resuming after epoch" in bench.log(job)
    assert bench.digest(job) == slow_digest


def test_cancel_saves_and_a_new_job_goes_on(bench, slow_digest):
    job = bench.submit_slow("--nodes", "2")
    bench.wait_for_epoch(job)
    bench.hvdtrain("cancel", job)
    bench.wait(job, "FAILED")
    run = bench.run(job)
    assert run.exit_code() == 75
    assert bench.exit_code(job) == "75:0"
    assert bench.why(job) == "stopped"
    assert json.loads(bench.hvdtrain("status", job, "--json").stdout)[0]["state"] == "stopped"
    bench.hurry()
    again = bench.hvdtrain("submit", "--resume", run.short_id).stdout.strip()
    bench.wait(again, "COMPLETED")
    assert bench.digest(again) == slow_digest


@pytest.mark.thorough
def test_one_task_of_an_array_goes_on_by_itself(bench):
    job = bench.submit_slow("--nodes", "2", "--set", "slurm.array=3-4%1")
    bench.wait_for_epoch(f"{job}_3")
    run = bench.run(f"{job}_3")
    bench.cluster.command("scancel", f"{job}_4")  # it waits for the first
    bench.hvdtrain("cancel", f"{job}_3")
    bench.wait(f"{job}_3", "FAILED")
    bench.hurry()
    again = bench.hvdtrain("submit", "--resume", run.short_id).stdout.strip()
    bench.wait(again, "COMPLETED")
    assert run.finished.exists()
    assert "seed: 3" in run.config.read_text()


@pytest.mark.thorough
def test_scancel_in_the_middle_ends_the_job_for_good(bench):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    bench.cluster.command("scancel", job)
    bench.wait(job, "CANCELLED")
    bench.cluster.wait_for_nodes()
    assert bench.state(job) == "CANCELLED", "it must not queue itself again"
    assert bench.run(job).exit_code() == 75, "there was time to save"
    assert bench.why(job) == "stopped"


@pytest.mark.thorough
def test_requeued_preempted_and_without_its_node_a_job_ends_with_the_same_weights(bench, slow_digest):
    """One job through all of it, and its controller restarts meanwhile."""
    job = bench.submit_slow("--nodes", "2")
    bench.wait_for_epoch(job)
    bench.hvdtrain("requeue", job)
    bench.wait(job, "PENDING")
    assert bench.why(job) == "pending"

    bench.wait_for_epoch(job, bench.num_epochs(job) + 2)
    assert "resuming after epoch" in bench.log(job)
    bench.cluster.stop_controller()
    time.sleep(2)
    bench.cluster.start_controller()

    wants_all = ("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    urgent = bench.cluster.command("sbatch", "--parsable", *wants_all, check=True).stdout.strip()
    bench.wait(urgent, "COMPLETED")
    assert "stopped: the job was told to end" in bench.log(job)

    bench.wait_for_epoch(job, bench.num_epochs(job) + 2)
    try:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=down", "reason=test", check=True)
        bench.wait(job, "PENDING")
        bench.hurry()
        bench.wait(job, "COMPLETED")
        assert bench.digest(job) == slow_digest
    finally:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=resume")
