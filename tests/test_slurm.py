"""Jobs on a real Slurm: four nodes on this machine, real training on digits, real faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hvdtrain.rundir import RunDir, find_run, read_json
from tests.cluster.slurm import Cluster, missing_programs
from tests.conftest import PROJECT, missing
from tests.listeners import listening, workers

CONFIG = PROJECT / "configs" / "digits_cnn.yaml"
SITE = PROJECT / "configs" / "sites" / "local-cluster.yaml"
PATIENCE_S = 240.0
SHORT = ("--set", "training.epochs=4")
LONG = ("--set", "training.epochs=150")  # some 20 seconds of training


@dataclass
class Bench:
    """A Slurm and a folder of runs.

    Args:
        cluster: It runs.
        folder: Where jobs are submitted.
    """

    cluster: Cluster
    folder: Path

    def hvdtrain(self, *words: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "hvdtrain", *words],
            env={**os.environ, **self.cluster.environment(), **environ},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert code is None or result.returncode == code, result.stdout + result.stderr
        return result

    def submit(self, *words: str, **environ: str) -> str:
        """Submit digits and return the job's id."""
        result = self.hvdtrain("submit", str(CONFIG), "--site", str(SITE), *words, **environ)
        assert result.stdout.strip().isdigit(), result.stdout
        return result.stdout.strip()

    def run(self, job: str) -> RunDir:
        return find_run(job, self.folder / "runs")

    def state(self, job: str) -> str:
        command = ("squeue", "--noheader", "--array", f"--jobs={job}", "--states=all", "--format=%T")
        return self.cluster.command(*command).stdout.strip()

    def wait(self, job: str, *states: str) -> str:
        """Wait until a job is in one of these states."""
        end = time.monotonic() + PATIENCE_S
        while (state := self.state(job)) not in states:
            assert time.monotonic() < end, f"job {job} is {state}:\n{self.log(job)}"
            time.sleep(0.3)
        return state

    def wait_for_epoch(self, job: str, number: int = 5) -> None:
        """Wait until training has come so far."""
        end = time.monotonic() + PATIENCE_S
        metrics = self.run(job).metrics
        while not metrics.exists() or metrics.read_text().count('"kind": "epoch"') < number:
            state = self.state(job)
            assert time.monotonic() < end, f"job {job} is {state}:\n{self.log(job)}"
            assert state in ("PENDING", "CONFIGURING", "RUNNING"), f"job {job} is {state}:\n{self.log(job)}"
            time.sleep(0.2)

    def log(self, job: str) -> str:
        logs = sorted(self.run(job).logs.glob("slurm-*.out"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def exit_code(self, job: str) -> str:
        """Return a job's exit code as Slurm writes it, `code:signal`."""
        text = self.cluster.command("scontrol", "--oneliner", "show", "job", job).stdout
        return text.partition(" ExitCode=")[2].split()[0]

    def why(self, job: str) -> str:
        return json.loads(self.hvdtrain("why", job, "--json").stdout)["name"]

    def digest(self, job: str) -> str:
        run = self.run(job)
        assert run.finished.exists(), self.log(job)
        return read_json(run.summary)["digest"]


@pytest.fixture(scope="session")
def cluster(require_horovod):
    absent = missing_programs()
    if absent:
        missing("slurm", f"Slurm is not installed here ({', '.join(absent)})")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with tempfile.TemporaryDirectory(prefix="hvd-slurm-", dir="/tmp") as name:
        cluster = Cluster(Path(name))
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()


@pytest.fixture
def bench(cluster, tmp_path):
    yield Bench(cluster, tmp_path)
    cluster.command("scancel", "--me")
    cluster.wait_for_nodes()


def local_digest(folder: Path, *words: str) -> str:
    """Train without a scheduler, and return the digest of the weights."""
    command = [sys.executable, "-m", "hvdtrain", "run", str(CONFIG), "--ranks", "2", *words, "--runs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stderr
    summary = next(folder.glob("*/*/summary.json"))
    return json.loads(summary.read_text())["digest"]


@pytest.fixture(scope="session")
def short_digest(tmp_path_factory, require_horovod) -> str:
    return local_digest(tmp_path_factory.mktemp("short"), *SHORT)


@pytest.fixture(scope="session")
def long_digest(tmp_path_factory, require_horovod) -> str:
    return local_digest(tmp_path_factory.mktemp("long"), *LONG)


# -- every way to start the ranks ---------------------------------------------------------------


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "native"])
def test_two_nodes_train_the_same_bits_as_one_machine(bench, short_digest, launcher):
    job = bench.submit("--nodes", "2", "--launcher", launcher, *SHORT)
    bench.wait(job, "COMPLETED")
    assert bench.digest(job) == short_digest
    ranks = read_json(bench.run(job).environment)["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1]


@pytest.mark.parametrize("launcher", ["srun", "mpirun", "native"])
def test_two_ranks_on_each_of_two_nodes(bench, launcher):
    job = bench.submit("--nodes", "2", "--ranks", "4", "--launcher", launcher, *SHORT)
    bench.wait(job, "COMPLETED")
    summary = read_json(bench.run(job).summary)
    assert (summary["num_ranks"], bench.run(job).finished.exists()) == (4, True)


def test_an_array_has_a_run_and_a_seed_for_each_index(bench, short_digest):
    job = bench.submit("--nodes", "2", "--set", "slurm.array=0-2", *SHORT)
    for index in range(3):
        bench.wait(f"{job}_{index}", "COMPLETED")
    digests = [bench.digest(f"{job}_{index}") for index in range(3)]
    assert len(set(digests)) == 3, "three seeds"
    assert digests[0] == short_digest, "index 0 has the configuration's own seed"


def test_a_chain_starts_after_what_it_depends_on(bench):
    first = bench.submit("--nodes", "2", *SHORT)
    second = bench.submit("--nodes", "2", "--set", f"slurm.dependency=afterok:{first}", *SHORT)
    row = json.loads(bench.hvdtrain("status", second, "--json").stdout)[0]
    assert (row["state"], row["reason"]) == ("pending", "Dependency")
    bench.wait(second, "COMPLETED")
    started = [json.loads(bench.run(job).metrics.read_text().splitlines()[0])["time"] for job in (first, second)]
    ended = [json.loads(bench.run(job).metrics.read_text().splitlines()[-1])["time"] for job in (first, second)]
    assert ended[0] < started[1]


def test_a_script_that_sbatch_gets_by_hand_makes_its_own_run(bench):
    script = bench.folder / "job.sh"
    script.write_text(bench.hvdtrain("render", str(CONFIG), "--site", str(SITE), "--nodes", "2", *SHORT).stdout)
    environ = {**os.environ, **bench.cluster.environment(), "HVDTRAIN_PYTHON": sys.executable}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    command = ["sbatch", "--parsable", "--output=log-%j", str(script)]
    job = subprocess.run(
        command, env=environ, cwd=bench.folder, capture_output=True, text=True, check=True
    ).stdout.strip()
    bench.wait(job, "COMPLETED", "FAILED")
    assert bench.run(f"job{job}").finished.exists(), (bench.folder / f"log-{job}").read_text()


APPTAINER = """#!/bin/bash
echo "container: $*" >&2
shift
while [ "$1" = --bind ] || [ "$1" = --pwd ]; do shift 2; done
shift
exec "$@"
"""


def test_ranks_in_containers_train_the_same_bits(bench, short_digest):
    """A program takes Apptainer's place that runs what it is given; all the rest is real."""
    tools = bench.folder / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text(APPTAINER)
    (tools / "apptainer").chmod(0o755)
    container = (
        "container.image=/images/x.sif",
        f"container.python={sys.executable}",
        f"container.python_path={PROJECT}",
    )
    words = [word for setting in container for word in ("--set", setting)]
    job = bench.submit("--nodes", "2", *SHORT, *words, PATH=f"{tools}:{os.environ['PATH']}")
    bench.wait(job, "COMPLETED", "FAILED")
    assert "container: exec --bind" in bench.log(job)
    assert bench.digest(job) == short_digest


def test_going_on_with_other_nodes_says_what_changed(bench):
    stated = ("--set", "training.global_batch_size=64", "--set", "training.batch_size_per_replica=null")
    job = bench.submit("--nodes", "2", *stated, *LONG)
    bench.wait_for_epoch(job)
    bench.hvdtrain("cancel", job)
    bench.wait(job, "FAILED")
    run = bench.run(job)
    result = bench.hvdtrain("submit", "--resume", run.short_id, "--nodes", "4", "--ranks", "4")
    assert "resumed" in result.stderr
    assert "2 -> 4 replicas, 2 -> 4 nodes" in result.stderr
    again = result.stdout.strip()
    bench.wait(again, "COMPLETED")
    assert read_json(run.summary)["num_ranks"] == 4


def test_ranks_of_one_node_that_meet_through_gloo_listen_on_loopback_alone(bench):
    job = bench.submit("--nodes", "1", "--launcher", "native", *LONG)
    bench.wait_for_epoch(job)
    ranks = workers(bench.run(job).path)
    assert len(ranks) == 2
    assert set().union(*listening(ranks).values()) <= {"127.0.0.1", "::1"}


# -- stopping and going on ----------------------------------------------------------------------


def test_the_time_limit_saves_requeues_and_ends_with_the_same_weights(bench, tmp_path):
    epochs = ("--set", "training.epochs=450")
    job = bench.submit(
        "--nodes", "2", *epochs, "--set", "slurm.time_limit_min=1", "--set", "slurm.stop_lead_s=50"
    )  # fmt: skip
    bench.wait(job, "COMPLETED")
    assert "stopped: the time limit is near" in bench.log(job)
    assert "resuming after epoch" in bench.log(job)
    assert bench.digest(job) == local_digest(tmp_path / "local", *epochs)


def test_scontrol_requeue_goes_on_with_the_same_weights(bench, long_digest):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    bench.hvdtrain("requeue", job)
    bench.wait(job, "PENDING")
    assert bench.why(job) == "pending"
    bench.wait(job, "COMPLETED")
    assert "resuming after epoch" in bench.log(job)
    assert bench.digest(job) == long_digest


def test_cancel_saves_and_a_new_job_goes_on(bench, long_digest):
    job = bench.submit("--nodes", "2", *LONG)
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
    assert bench.digest(again) == long_digest


def test_one_task_of_an_array_goes_on_by_itself(bench):
    job = bench.submit("--nodes", "2", "--set", "slurm.array=3-4", *LONG)
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


def test_a_job_of_higher_priority_gets_the_nodes_and_ours_goes_on_later(bench, long_digest):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    wants_all = ("--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    urgent = bench.cluster.command("sbatch", "--parsable", *wants_all, check=True).stdout.strip()
    bench.wait(urgent, "COMPLETED")
    bench.wait(job, "COMPLETED")
    assert "stopped: the job was told to end" in bench.log(job)
    assert bench.digest(job) == long_digest


def test_a_node_that_goes_down_costs_a_restart(bench, long_digest):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    try:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=down", "reason=test", check=True)
        bench.wait(job, "PENDING")
        bench.wait(job, "COMPLETED")
        assert bench.digest(job) == long_digest
    finally:
        bench.cluster.command("scontrol", "update", "nodename=node2", "state=resume")


def test_a_controller_that_restarts_is_not_noticed(bench, long_digest):
    job = bench.submit("--nodes", "2", *LONG)
    bench.wait_for_epoch(job)
    bench.cluster.stop_controller()
    time.sleep(2)
    bench.cluster.start_controller()
    bench.wait(job, "COMPLETED")
    assert bench.digest(job) == long_digest


# -- what cannot go on --------------------------------------------------------------------------


def rank_process(run: RunDir, rank: int) -> int:
    """Return the process of a rank."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            is_worker = words[0].endswith(b"python") and b"hvdtrain.train" in words and str(run.path).encode() in words
            if is_worker and f"SLURM_PROCID={rank}".encode() in (place / "environ").read_bytes().split(b"\0"):
                return int(place.name)
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
    assert "Slurm refuses the job" in result.stderr
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


def test_a_draft_of_this_cluster_is_a_profile_that_works(bench):
    bench.hvdtrain("site", "init", "mine", XDG_CONFIG_HOME=str(bench.folder / "conf"))
    shown = bench.hvdtrain("site", "show", "mine", XDG_CONFIG_HOME=str(bench.folder / "conf")).stdout
    assert "default_partition: main" in shown
    assert "srun_mpi: pmix" in shown
    result = bench.hvdtrain("submit", str(CONFIG), "--site", "mine", *SHORT, XDG_CONFIG_HOME=str(bench.folder / "conf"))
    bench.wait(result.stdout.strip(), "COMPLETED")
