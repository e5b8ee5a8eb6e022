"""Jobs on a real Slurm, four nodes on this machine: every way to start ranks, arrays, chains, containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdtrain.rundir import read_json
from tests.cluster.jobs import CONFIG, LONG, SHORT, SITE
from tests.conftest import PROJECT
from tests.listeners import listening, workers


# With srun, an array and containers do so below.
@pytest.mark.parametrize("launcher", ["mpirun", "native"])
def test_two_nodes_train_the_same_bits_as_one_machine(bench, short_digest, launcher):
    job = bench.submit("--nodes", "2", "--launcher", launcher, *SHORT)
    bench.wait(job, "COMPLETED")
    assert bench.digest(job) == short_digest
    ranks = read_json(bench.run(job).environment)["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1]


@pytest.mark.parametrize("launcher", [pytest.param("srun", marks=pytest.mark.thorough), "native"])
def test_two_ranks_on_each_of_two_nodes(bench, launcher):
    job = bench.submit("--nodes", "2", "--ranks", "4", "--launcher", launcher, *SHORT)
    bench.wait(job, "COMPLETED")
    summary = read_json(bench.run(job).summary)
    assert (summary["num_ranks"], bench.run(job).finished.exists()) == (4, True)


def test_an_array_has_a_run_and_a_seed_for_each_index(bench, short_digest):
    job = bench.submit("--nodes", "2", "--set", "slurm.array=0-1", *SHORT)
    for index in range(2):
        bench.wait(f"{job}_{index}", "COMPLETED")
    digests = [bench.digest(f"{job}_{index}") for index in range(2)]
    assert len(set(digests)) == 2, "two seeds"
    assert digests[0] == short_digest, "index 0 has the configuration's own seed"


@pytest.mark.thorough
def test_a_chain_starts_after_what_it_depends_on(bench):
    first = bench.cluster.command("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 6").stdout.strip()
    second = bench.submit("--nodes", "2", "--set", f"slurm.dependency=afterok:{first}", *SHORT)
    row = json.loads(bench.hvdtrain("status", second, "--json").stdout)[0]
    assert (row["state"], row["reason"]) == ("pending", "Dependency")
    bench.wait(second, "COMPLETED")
    assert bench.field(first, "EndTime") <= bench.field(second, "StartTime")


@pytest.mark.thorough
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


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_going_on_with_other_nodes_says_what_changed(bench):
    stated = ("--set", "training.global_batch_size=64", "--set", "training.batch_size_per_replica=null")
    job = bench.submit_slow("--nodes", "2", *stated)
    bench.wait_for_epoch(job)
    bench.hvdtrain("cancel", job)
    bench.wait(job, "FAILED")
    run = bench.run(job)
    bench.hurry()
    result = bench.hvdtrain("submit", "--resume", run.short_id, "--nodes", "4", "--ranks", "4")
    assert "resumed" in result.stderr
    assert "2 -> 4 replicas, 2 -> 4 nodes" in result.stderr
    again = result.stdout.strip()
    bench.wait(again, "COMPLETED")
    assert read_json(run.summary)["num_ranks"] == 4


@pytest.mark.thorough
def test_ranks_of_one_node_that_meet_through_gloo_listen_on_loopback_alone(bench):
    job = bench.submit("--nodes", "1", "--launcher", "native", *LONG)
    bench.wait_for_epoch(job)
    ranks = workers(bench.run(job).path)
    assert len(ranks) == 2
    assert set().union(*listening(ranks).values()) <= {"127.0.0.1", "::1"}


OWN_SCRIPT = """
import hvdtrain.keras as hk
world = hk.init()
print(f"rank {world.rank} of {world.size}", flush=True)
"""


def test_a_script_of_ones_own_knows_its_rank_under_plain_srun(bench):
    script = bench.folder / "own.py"
    script.write_text(OWN_SCRIPT)
    command = ("srun", "--nodes=2", "--ntasks=2", "--mpi=pmix", sys.executable, str(script))
    result = bench.cluster.command(*command, timeout=120)
    assert sorted(result.stdout.split("\n"))[-2:] == ["rank 0 of 2", "rank 1 of 2"], result.stdout + result.stderr
