"""PBS, the second scheduler: its lines, its script under stub programs, and its queue."""

import json
import os
import subprocess

import pytest

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.facts import assumed_facts
from hvdtrain.prepare import prepare, run_of_job
from hvdtrain.schedulers.pbs import PbsScheduler
from hvdtrain.sites import load_site
from tests.conftest import PROJECT
from tests.test_batch_script import CONFIG, STUB, recorded
from tests.test_stop_protocol import PYTHON, WORKER

SITE = load_site(str(PROJECT / "configs" / "sites" / "generic-pbs.yaml"), {})


def rendered(*overrides: str) -> str:
    return prepare(CONFIG, assumed_facts(), overrides=overrides, site=SITE).text()


def directives(text: str) -> list[str]:
    return [line.removeprefix("#PBS ") for line in text.splitlines() if line.startswith("#PBS ")]


def test_a_chunk_says_what_each_node_gives():
    found = directives(rendered("launch.num_ranks=8", "slurm.nodes=2", "slurm.time_limit_min=90", "slurm.memory=64G"))
    assert "-l select=2:ncpus=32:mpiprocs=4:ompthreads=8:ngpus=4:mem=64gb" in found
    assert {"-N digits_cnn", "-q workq", "-l walltime=01:30:00", "-r y", "-j oe"} <= set(found)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("slurm.account=abc", "-A abc"),
        ("slurm.array=0-2", "-J 0-2"),
        ("slurm.dependency=afterok:12", "-W depend=afterok:12"),
        ("slurm.mail_user=me@example.org", "-M me@example.org"),
        ("slurm.max_requeues=0", "-r n"),
        ("slurm.exclusive=true", "-l place=scatter:excl"),
    ],
)
def test_each_key_becomes_its_line(override, line):
    assert line in directives(rendered(override))


def test_a_job_stops_itself_before_the_limit(tmp_path):
    """PBS sends no signal, so the script's own timer does; the run directory comes as a variable."""
    tools, run = tmp_path / "tools", tmp_path / "run"
    for place in (tools, run):
        place.mkdir()
    for program, body in {"mpirun": WORKER, "python": PYTHON, "qsub": STUB, "qstat": "#!/bin/bash\n"}.items():
        (tools / program).write_text(body)
        (tools / program).chmod(0o755)
    text = rendered("slurm.time_limit_min=1", "slurm.stop_lead_s=59")
    text = text.replace('keep=" PWD', 'keep=" PWD RECORD RUN')
    environ = {
        "PATH": f"{tools}:/usr/bin:/bin", "RECORD": str(tmp_path), "RUN": str(run), "HVDTRAIN_PYTHON": "python",
        "PBS_JOBID": "12.server", "HVDTRAIN_RUN_DIR": str(run), "PBS_O_WORKDIR": str(tmp_path),
    }  # fmt: skip
    command = ["bash", "-c", text]
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 75, result.stderr
    assert "time limit" in (run / "seen").read_text()
    assert not (tmp_path / "qsub").exists(), "submit --resume goes on: a job of PBS cannot queue itself again"


QSTAT = {
    "Jobs": {
        "12.server": {"job_state": "R", "comment": "Job run at Thu"},
        "13.server": {"job_state": "Q", "comment": "Not Running: Insufficient amount of resource: ncpus"},
        "14.server": {"job_state": "F", "Exit_status": 73},
    }
}


@pytest.fixture
def stubs(tmp_path, monkeypatch):
    (tmp_path / "qstat").write_text(f"#!/bin/bash\ncat <<'END'\n{json.dumps(QSTAT)}\nEND\n")
    (tmp_path / "qsub").write_text(STUB + "env > $RECORD/env\necho 15.server\n")
    for name in ("qstat", "qsub"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("RECORD", str(tmp_path / "seen"))
    return tmp_path / "seen"


def test_the_queue_speaks_slurms_words(stubs):
    entries = PbsScheduler().queue()
    assert [entry.state for entry in entries.values()] == ["RUNNING", "PENDING", "COMPLETED"]
    assert "Insufficient" in entries["13.server"].reason
    assert entries["13.server"].is_active


def test_what_is_no_json_is_said_in_a_line(stubs, tmp_path):
    (tmp_path / "qstat").write_text("#!/bin/bash\necho '{\"Jobs\": {\"1.server\": {'\n")
    for ask in (PbsScheduler().queue, lambda: PbsScheduler().details("1.server")):
        with pytest.raises(EnvironmentNotFitError, match="qstat -F json prints what is not JSON"):
            ask()


def test_a_job_that_starts_again_finds_its_run_though_its_id_has_a_dash(tmp_path):
    prepared = prepare(str(CONFIG), assumed_facts(), site=SITE)
    first = run_of_job(prepared, tmp_path, "job12.pbs-01")
    assert first.short_id == "job12.pbs_01"
    assert run_of_job(prepared, tmp_path, "job12.pbs-01") == first


def test_a_job_gets_its_run_directory_and_no_secret(stubs, tmp_path):
    environ = {**os.environ, "AWS_SECRET_ACCESS_KEY": "canary", "HVDTRAIN_PYTHON": "/p"}
    job = PbsScheduler().submit(
        tmp_path / "job.sh", "/runs/x", "/runs/x/logs", environ, pass_names=["RECORD"], is_array=False
    )  # fmt: skip
    assert job == "15.server"
    words = recorded(stubs / "qsub")
    assert "HVDTRAIN_RUN_DIR" in words[1].split(",")
    seen = (stubs / "env").read_text()
    assert "HVDTRAIN_RUN_DIR=/runs/x" in seen
    assert "canary" not in seen
