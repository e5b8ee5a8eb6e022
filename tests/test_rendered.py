"""Scripts that `render` prints: those of `jobs/`, and that the shell makes of them what was meant."""

import json
import os
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hvdtrain.config import Config
from hvdtrain.facts import Facts, assumed_facts
from hvdtrain.jobs import user_script
from hvdtrain.launch.job import config_script, worker_environment
from hvdtrain.launch.shell import PASSED_NAMES, script_text
from hvdtrain.plan import make_plan
from tests.conftest import CONFIG, PROJECT

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
SITES = sorted(path.stem for path in (PROJECT / "configs" / "sites").glob("*.yaml"))


@pytest.mark.parametrize("site", [None, *SITES])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_committed_job_is_what_render_prints(hvdtrain, monkeypatch, config, site):
    monkeypatch.chdir(PROJECT)
    code, out, _ = hvdtrain("render", f"configs/{config.name}", *(["--site", site] if site else []))
    committed = PROJECT / "jobs" / (site or "") / f"{config.stem}.sh"
    assert committed.is_file(), "a configuration without its script: make jobs"
    assert code == 0
    assert out == committed.read_text(encoding="utf-8"), "make jobs renders them anew"


def test_every_job_has_its_configuration():
    jobs = {path.relative_to(PROJECT / "jobs").as_posix() for path in (PROJECT / "jobs").rglob("*.sh")}
    names = {f"{path.stem}.sh" for path in CONFIGS}
    assert jobs == names | {f"{site}/{name}" for site in SITES for name in names} != set()


def test_committed_jobs_are_clean():
    tool = Path(sys.executable).with_name("shellcheck")
    jobs = sorted((PROJECT / "jobs").rglob("*.sh"))
    result = subprocess.run([tool, *jobs], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("options", [(), ("--explain",), ("--strategy", "mirrored", "--ranks", "1"), ("--ranks", "1")])
def test_scripts_please_bash_and_shellcheck(hvdtrain, folder, options):
    script = folder / "job.sh"
    script.write_text(hvdtrain("render", "demo.yaml", "--set", "launch.env={GREETING: it's me}", *options)[1])
    for command in (["bash", "-n", str(script)], ["shellcheck", "--severity=style", str(script)]):
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=with_python_on_path())
        assert result.returncode == 0, result.stdout + result.stderr


def with_python_on_path(**settings: str) -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **settings}


def test_render_is_the_same_on_any_machine(folder):
    def render(where: Path, environ: dict[str, str]) -> bytes:
        command = [sys.executable, "-m", "hvdtrain", "render", "demo.yaml", "--set", "training.epochs=2"]
        return subprocess.run(command, cwd=where, env=environ, capture_output=True, timeout=60, check=True).stdout

    elsewhere = folder / "else where"
    elsewhere.mkdir()
    (elsewhere / "demo.yaml").write_text(json.dumps(CONFIG))
    bare = {"PYTHONPATH": str(PROJECT), "PATH": "", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_PROCID": "1"}
    text = render(folder, dict(os.environ))
    assert text == render(elsewhere, bare)
    assert b"mpirun --np 2" in text


def test_explain_adds_only_comments(hvdtrain, folder):
    plain = hvdtrain("render", "demo.yaml")[1].splitlines()
    explained = hvdtrain("render", "demo.yaml", "--explain")[1].splitlines()
    assert [line for line in explained if not line.startswith(("  #", "# Ranks start"))] == plain
    assert len(explained) > len(plain) + 8


# -- scripts, executed --------------------------------------------------------------------------

STUB = """#!/bin/bash
{{ printf '%s\\0' "$@"; }} >{record}.args
cat /proc/$$/environ >{record}.environ
printf '%s' {answer}
"""


def stub(path: Path, record: Path, answer: str = "''") -> None:
    """Write a program that records its arguments and its whole environment."""
    path.write_text(STUB.format(record=record, answer=answer))
    path.chmod(0o755)


def recorded(record: Path) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment that a stub was started with."""
    arguments = record.with_name(record.name + ".args").read_bytes().decode().split("\0")[:-1]
    environ = record.with_name(record.name + ".environ").read_bytes().decode().split("\0")[:-1]
    return arguments, {name: value for name, _, value in (entry.partition("=") for entry in environ)}


def execute(text: str, folder: Path, **settings: str) -> tuple[list[str], list[str], dict[str, str]]:
    """Run a script under stubs; return python's arguments, mpirun's arguments, and what the ranks would see."""
    tools = folder / "bin"
    tools.mkdir()
    stub(tools / "python", folder / "python", answer="'/runs/a b'")
    stub(tools / "mpirun", folder / "mpirun")
    (folder / "job.sh").write_text(text)
    environ = {"PATH": f"{tools}:{os.environ['PATH']}", "HVDTRAIN_PYTHON": str(tools / "python"), **settings}
    command = ["bash", str(folder / "job.sh")]
    result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    python = recorded(folder / "python")[0] if (folder / "python.args").exists() else []
    return python, *recorded(folder / "mpirun")


HOSTILE = st.one_of(
    st.sampled_from(
        [
            "$(touch canary)", "`touch canary`", "a'; touch canary; echo '", '"; touch canary; "', "a\ntouch canary\n",
            "-x", "--", "{python}", "{run_dir}", "$HOME", "\\", "\u2028touch canary", "\x85touch canary", "a\rb", "*",
            "~", "!!", "\x1b[31m", "a=b", "#", "\u202e", "\ufeff", "é", "🙂",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)  # fmt: skip
NAMES = st.text(string.ascii_uppercase, min_size=3, max_size=5).map("X_".__add__)


@given(
    path=HOSTILE,
    options=st.lists(HOSTILE, max_size=3),
    env=st.dictionaries(NAMES, HOSTILE, max_size=3),
    secret=HOSTILE,
)
@example(
    path="$(touch canary)", options=["'", "\n$(touch canary)"], env={"X_A": "$(touch canary)"}, secret="$(touch canary)"
)
@settings(max_examples=25, deadline=None)
def test_hostile_texts_reach_the_ranks_unchanged_and_do_nothing(path, options, env, secret):
    config = Config.model_validate({**CONFIG, "launch": {"num_ranks": 2, "env": env, "pass_env": ["WANTED"]}})
    text = script_text(config_script(make_plan(config, assumed_facts()), path, options))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python, mpirun, environ = execute(text, folder, SECRET=secret, WANTED=secret, LANG="C.UTF-8")
        assert python == ["-m", "hvdtrain", "plan", path, *options, "--new-run"]
        assert mpirun[:2] == ["--np", "2"]
        assert mpirun[-4:] == [str(folder / "bin" / "python"), "-m", "hvdtrain.train", "/runs/a b"]
        assert env.items() <= environ.items()
        assert "SECRET" not in environ
        assert environ["WANTED"] == secret
        assert not (folder / "canary").exists()


def test_a_deterministic_run_computes_with_one_thread(hvdtrain, folder):
    wanted = {"TF_NUM_INTRAOP_THREADS=1", "TF_NUM_INTEROP_THREADS=1", "OMP_NUM_THREADS=1"}
    for is_deterministic in (False, True):
        environment = worker_environment(2, 4, 0.1, is_deterministic=is_deterministic)
        assert (wanted <= {setting.tokens[0] for setting in environment}) == is_deterministic
    script = hvdtrain("render", "demo.yaml", "--explain", "--set", "training.deterministic=true")[1]
    assert "training.deterministic: one thread" in script


def test_control_an_unquoted_text_would_leave_the_canary(hvdtrain, folder):
    text = hvdtrain("render", "demo.yaml", "--set", "launch.env={X: $(touch canary)}")[1]
    execute(text.replace("'X=$(touch canary)'", "X=$(touch canary)"), folder)
    assert (folder / "canary").exists()


@given(words=st.lists(HOSTILE, max_size=4))
@example(words=["{python}", "{run_dir}"])
@settings(max_examples=25, deadline=None)
def test_words_of_a_users_command_reach_the_ranks_unchanged(words):
    facts = Facts(num_cores=2, mpi="openmpi5", mpi_found="", has_horovod=True, num_gpus=0)
    text = script_text(user_script(["python3", *words], facts, num_ranks=2, launcher="auto"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, mpirun, _ = execute(text, folder)
        assert mpirun[mpirun.index("python3") :] == ["python3", *words]
        assert not (folder / "canary").exists()


def test_ranks_see_only_the_names_on_the_list(hvdtrain, folder):
    text = hvdtrain("render", "demo.yaml", "--set", "launch.pass_env=[EXTRA]")[1]
    caller = {"AWS_SECRET_ACCESS_KEY": "s", "LD_PRELOAD_X": "s", "EXTRA": "1", "TZ": "UTC", "PYTHONPATH": "/p q"}
    python, _, environ = execute(text, folder, **caller)
    assert python[:4] == ["-m", "hvdtrain", "plan", "demo.yaml"]
    settings = text.partition("rank_env=(")[2].partition(")")[0].split()
    allowed = {*PASSED_NAMES, "EXTRA", *(setting.partition("=")[0] for setting in settings)}
    assert environ.keys() <= allowed
    assert environ.items() >= {"EXTRA": "1", "TZ": "UTC", "PYTHONPATH": "/p q", "HVDTRAIN_NUM_RANKS": "2"}.items()


def test_a_given_run_directory_makes_no_new_one(hvdtrain, folder):
    text = hvdtrain("render", "demo.yaml")[1].replace("${1:-", "${RUN:-", 1)
    python, mpirun, _ = execute(text, folder, RUN="runs/mine")
    assert python == []
    assert mpirun[-1] == "runs/mine"
