"""The launch dialects beside Open MPI, as they are rendered; and a list of hosts, on real ranks."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvdtrain.launch import LAUNCHERS, LaunchRequest
from tests.conftest import PROJECT, missing
from tests.test_batch_script import LOCAL, recorded, rendered, run_under_stubs


def tokens(name: str, **more) -> list[str]:
    request = LaunchRequest(num_ranks=8, num_cores=16, num_nodes=2, **more)
    return [token for setting in LAUNCHERS[name].tokens(request) for token in setting.tokens]


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "MPICH": ("mpich", ["mpiexec", "-n", "8", "-ppn", "4", "-bind-to", "none"]),
        "Intel": ("intelmpi", ["mpirun", "-n", "8", "-ppn", "4"]),
        "Open MPI 5": ("openmpi5", ["mpirun", "--np", "8", "--bind-to", "none", "--map-by", "ppr:4:node"]),
        "Open MPI 4": ("openmpi4", ["mpirun", "-np", "8", "--bind-to", "none", "--map-by", "ppr:4:node"]),
    }.values(),
)
def test_ranks_are_spread_over_the_nodes(name, expected):
    assert tokens(name)[: len(expected)] == expected


def test_mpiruns_daemons_get_the_cpus_of_all_their_ranks():
    """Since Slurm 22.05 a step does not inherit --cpus-per-task, and srun would give a daemon a single CPU."""
    text = rendered("slurm.nodes=2", "launch.num_ranks=4", "slurm.cpus_per_rank=3", "launch.launcher=mpirun")
    assert "SRUN_CPUS_PER_TASK=6" in text


def test_no_list_of_hosts_is_frozen_into_a_batch_script():
    for launcher in ("mpirun", "srun", "native", "horovodrun"):
        text = rendered("slurm.nodes=2", f"launch.launcher={launcher}")
        assert "--host " not in text
        assert "node1" not in text


def test_horovodrun_looks_its_hosts_up_when_the_job_runs(tmp_path):
    text = rendered("slurm.nodes=2", "launch.launcher=horovodrun")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "horovodrun").write_text('#!/bin/bash\nprintf \'%s\\0\' "$@" > "$RECORD/horovodrun"\n')
    (tools / "horovodrun").chmod(0o755)
    text = text.replace("set -uo pipefail", 'set -uo pipefail\nscontrol() { printf "node1\\nnode2\\n"; }')
    run_under_stubs(text, tmp_path, SLURM_JOB_NODELIST="node[1-2]", SLURM_NTASKS_PER_NODE="1")
    words = recorded(tmp_path / "horovodrun")
    assert words[words.index("-H") + 1] == "node1:1,node2:1"


@pytest.mark.parametrize("mpi", ["mpich", "intelmpi"])
def test_a_site_may_have_another_mpi(mpi):
    site = LOCAL.model_copy(update={"mpi": mpi, "launcher": "mpirun"})
    text = rendered("slurm.nodes=2", site=site)
    assert "-ppn 1" in text


@pytest.mark.usefixtures("require_horovod")
@pytest.mark.thorough
def test_a_list_of_hosts_starts_ranks_and_passes_names_not_values(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    command = [
        sys.executable, "-m", "hvdtrain", "run", str(PROJECT / "configs" / "digits_cnn.yaml"), "--runs", str(tmp_path),
        "--set", f"launch.hostfile={hosts}", "--set", "training.epochs=3", "--set", "launch.env={MINE: canary}",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    script = next(tmp_path.glob("*/*/job.sh")).read_text()
    assert f"--hostfile {hosts}" in script
    assert 'launch+=(-x "${pair%%=*}")' in script
    assert Path(next(tmp_path.glob("*/*/FINISHED"))).exists()


@pytest.mark.usefixtures("require_horovod")
def test_control_horovodrun_shows_its_environment_to_everybody(tmp_path):
    """What the rule is for that only names stand on command lines."""
    program = Path(sys.executable).with_name("horovodrun")
    if not program.exists():
        missing("horovod", "horovodrun is not installed")
    environ = {**os.environ, "MY_PASSWORD": "canary-51c2", "PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = [str(program), "--gloo", "-np", "2", "sleep", "20"]
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + 60
        while not is_shown("canary-51c2") and time.monotonic() < end:
            time.sleep(0.1)
        assert is_shown("canary-51c2")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_shown(text: str) -> bool:
    """Tell whether a text stands on the command line of any process."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text.encode() in place.read_bytes():
                return True
    return False
