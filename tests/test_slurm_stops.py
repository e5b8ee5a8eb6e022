"""Jobs on a real Slurm that are stopped, in every way there is, and go on."""

from __future__ import annotations

import json
import time

from tests.cluster.jobs import LONG, MIDDLE, local_digest


def test_the_time_limit_saves_requeues_and_ends_with_the_same_weights(bench, tmp_path):
    epochs = ("--set", "training.epochs=120")
    job = bench.submit(
        "--nodes", "2", *epochs, "--set", "slurm.time_limit_min=1", "--set", "slurm.stop_lead_s=50"
    )  # fmt: skip
    bench.wait(job, "COMPLETED")
    assert "stopped: the time limit is near" in bench.log(job)
    assert "resuming after epoch" in bench.log(job)
    assert bench.digest(job) == local_digest(tmp_path / "local", *epochs)


def test_scontrol_requeue_goes_on_with_the_same_weights(bench, middle_digest):
    job = bench.submit("--nodes", "2", *MIDDLE)
    bench.wait_for_epoch(job)
    bench.hvdtrain("requeue", job)
    bench.wait(job, "PENDING")
    assert bench.why(job) == "pending"
    bench.wait(job, "COMPLETED")
    assert "resuming after epoch" in bench.log(job)
    assert bench.digest(job) == middle_digest


def test_cancel_saves_and_a_new_job_goes_on(bench, middle_digest):
    job = bench.submit("--nodes", "2", *MIDDLE)
    bench.wait_for_epoch(job)
    bench.hvdtrain("cancel", job)
    bench.wait(job, "FAILED")
    run = bench.run(job)
    assert run.exit_code() == 75
    assert bench.exit_code(job) == "75:0"
    assert bench.why(job) == "stopped"
    assert json.loads(bench.hvdtrain("status", job, "--json").stdout)[0]["state"] == "stopped"
    again = bench.hvdtrain("submit", "--resume", run.short_id).stdout.strip()
    bench.wait(again, "COMPLETED")
    assert bench.digest(again) == middle_digest


def test_one_task_of_an_array_goes_on_by_itself(bench):
    job = bench.submit("--nodes", "2", "--set", "slurm.array=3-4", *MIDDLE)
    bench.wait_for_epoch(f"{job}_3")
    run = bench.run(f"{job}_3")
    bench.cluster.command("scancel", f"{job}_4")
    bench.hvdtrain("cancel", f"{job}_3")
    bench.wait(f"{job}_3", "FAILED")
    again = bench.hvdtrain("submit", "--resume", run.short_id).stdout.strip()
    bench.wait(again, "COMPLETED")
    assert run.finished.exists()
    assert "seed: 3" in run.config.read_text()


def test_scancel_in_the_middle_ends_the_job_for_good(bench):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    bench.cluster.command("scancel", job)
    bench.wait(job, "CANCELLED")
    bench.cluster.wait_for_nodes()
    assert bench.state(job) == "CANCELLED", "it must not queue itself again"
    assert bench.run(job).exit_code() == 75, "there was time to save"
    assert bench.why(job) == "stopped"


def test_a_job_of_higher_priority_gets_the_nodes_and_ours_goes_on_later(bench, middle_digest):
    job = bench.submit("--nodes", "2", *MIDDLE)
    bench.wait_for_epoch(job)
    wants_all = ("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    urgent = bench.cluster.command("sbatch", "--parsable", *wants_all, check=True).stdout.strip()
    bench.wait(urgent, "COMPLETED")
    bench.wait(job, "COMPLETED")
    assert "stopped: the job was told to end" in bench.log(job)
    assert bench.digest(job) == middle_digest


def test_a_node_that_goes_down_costs_a_restart(bench, middle_digest):
    job = bench.submit("--nodes", "2", *MIDDLE)
    bench.wait_for_epoch(job)
    try:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=down", "reason=test", check=True)
        bench.wait(job, "PENDING")
        bench.wait(job, "COMPLETED")
        assert bench.digest(job) == middle_digest
    finally:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=resume")


def test_a_controller_that_restarts_is_not_noticed(bench, middle_digest):
    job = bench.submit("--nodes", "2", *MIDDLE)
    bench.wait_for_epoch(job)
    bench.cluster.stop_controller()
    time.sleep(2)
    bench.cluster.start_controller()
    bench.wait(job, "COMPLETED")
    assert bench.digest(job) == middle_digest
