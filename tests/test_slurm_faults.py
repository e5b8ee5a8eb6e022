"""Jobs on a real Slurm that cannot go on, and what is around jobs: refusals, secrets, drafts of profiles."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from hvdtrain.rundir import RunDir, find_run
from tests.cluster.jobs import CONFIG, LONG, SHORT, SITE
from tests.listeners import workers


def rank_process(run: RunDir, rank: int) -> int:
    """Return the process of a rank."""
    for pid in workers(run.path):
        if f"SLURM_PROCID={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"rank {rank} of {run.path} is not there")


def test_a_killed_rank_ends_the_job_and_is_named(bench):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    os.kill(rank_process(bench.run(job), 1), signal.SIGKILL)
    bench.wait(job, "FAILED")
    assert bench.exit_code(job) == "69:0"
    assert bench.why(job) == "rank-killed"


def test_a_full_disk_ends_with_its_code_and_leaves_no_half_checkpoint(bench):
    disk = bench.folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(disk)]).returncode:
        pytest.skip("NOT TESTED: tmpfs cannot be mounted here")
    try:
        result = bench.hvdtrain("submit", str(CONFIG), "--site", str(SITE), "--nodes", "2", *LONG, "--runs", str(disk))
        job = result.stdout.strip()
        bench.wait(job, "FAILED", "COMPLETED")
        assert bench.exit_code(job) == "73:0"
        cause = json.loads(bench.hvdtrain("why", job, "--json", "--runs", str(disk)).stdout)
        assert cause["name"] == "no-space"
        run = find_run(job, disk)
        assert not list(run.checkpoints.glob(".writing-*"))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


@pytest.mark.thorough
def test_the_second_job_on_a_run_directory_is_refused(bench):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    run = bench.run(job)
    command = ("sbatch", "--parsable", f"--output={bench.folder}/second", str(run.script), str(run.path))
    second = bench.cluster.command(*command, check=True).stdout.strip()
    bench.wait(second, "FAILED")
    assert bench.exit_code(second) == "3:0"
    assert f"job {job} is training in" in (bench.folder / "second").read_text()
    assert bench.state(job) == "RUNNING"


@pytest.mark.thorough
def test_an_error_of_the_user_is_shown_first_with_its_code(bench):
    (bench.folder / "mine.py").write_text("def build(**args):\n    raise RuntimeError('my own mistake')\n")
    config = bench.folder / "mine.yaml"
    config.write_text(re.sub(r"hvdtrain\.workshop\.models:\w+", "mine:build", CONFIG.read_text()))
    result = bench.hvdtrain("submit", str(config), "--site", str(SITE), "--nodes", "2")
    job = result.stdout.strip()
    bench.wait(job, "FAILED")
    assert "my own mistake" in bench.log(job)
    assert "my own mistake" in bench.hvdtrain("why", job).stdout + bench.log(job)


def test_slurms_refusal_is_an_error_and_leaves_no_run(bench):
    result = bench.hvdtrain(
        "submit", str(CONFIG), "--site", str(SITE), "--set", "slurm.options={licenses: nosuch}", code=3
    )  # fmt: skip
    assert "sbatch refuses" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((bench.folder / "runs").glob("*/*")) if (bench.folder / "runs").exists() else True


def test_no_secret_of_the_environment_is_written_anywhere(bench):
    canary = "canary-8f3a1"
    job = bench.submit("--nodes", "2", *LONG, AWS_SECRET_ACCESS_KEY=canary, GITHUB_TOKEN=canary)
    bench.wait_for_epoch(job, 1)
    lines = [place.read_bytes() for place in Path("/proc").glob("[0-9]*/cmdline") if place.exists()]
    assert not any(canary.encode() in line for line in lines)
    rank = Path("/proc", str(rank_process(bench.run(job), 1)), "environ").read_bytes()
    assert canary.encode() not in rank
    assert canary not in bench.cluster.command("scontrol", "show", "job", "-d", job).stdout
    bench.cluster.command("scancel", job)
    bench.wait(job, "CANCELLED")
    roots = (bench.folder, bench.cluster.folder / "state")
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if canary.encode() in path.read_bytes()]
    shutil.rmtree(bench.folder / "runs")


def test_an_interactive_allocation_runs_a_command_on_its_nodes(bench):
    words = ("--site", str(SITE), "--nodes", "2", "--minutes", "5", "--", "srun", "printenv", "SLURMD_NODENAME")
    result = bench.hvdtrain("interact", *words)
    assert sorted(result.stdout.split()) == ["node1", "node2"]


@pytest.mark.thorough
def test_a_draft_of_this_cluster_is_a_profile_that_works(bench):
    bench.hvdtrain("site", "init", "mine", XDG_CONFIG_HOME=str(bench.folder / "conf"))
    shown = bench.hvdtrain("site", "show", "mine", XDG_CONFIG_HOME=str(bench.folder / "conf")).stdout
    assert 'default_partition: "main"' in shown
    assert "srun_mpi: pmix" in shown
    result = bench.hvdtrain("submit", str(CONFIG), "--site", "mine", *SHORT, XDG_CONFIG_HOME=str(bench.folder / "conf"))
    bench.wait(result.stdout.strip(), "COMPLETED")
