"""The command line without TensorFlow: what verbs print, import and refuse, and that scripts say what they mean."""

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

from hvdtrain.cli import VERBS, main
from hvdtrain.config import Config
from hvdtrain.facts import Facts, assumed_facts
from hvdtrain.jobs import user_script
from hvdtrain.launch.job import config_script, worker_environment
from hvdtrain.launch.shell import PASSED_NAMES, script_text
from hvdtrain.plan import Plan, make_plan
from tests.conftest import PROJECT, missing

CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
CONFIG = {
    "name": "demo",
    "model": {"source": "hvdtrain.workshop.models:digits_cnn"},
    "data": {"source": "hvdtrain.workshop.data:digits"},
    "training": {"epochs": 3, "batch_size_per_replica": 32},
    "launch": {"num_ranks": 2},
}
HEAVY = ("tensorflow", "keras", "horovod", "mpi4py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds demo.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def hvdtrain(monkeypatch, capsys):
    """Call the command line in this process; return (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hvdtrain", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def modules_after(calls: list[list[str]], folder: Path) -> set[str]:
    """Return the modules a new process has imported after these command lines, all of which must succeed."""
    code = (
        "import json, sys\n"
        "from hvdtrain.cli import main\n"
        f"for arguments in {calls!r}:\n"
        "    sys.argv = ['hvdtrain', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, (arguments, end.code)\n"
        "print('\\nMODULES', json.dumps(sorted(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.rpartition("MODULES ")[2]))


# -- what is imported ---------------------------------------------------------------------------


def test_help_of_every_verb_needs_neither_tensorflow_nor_pydantic(folder):
    pages = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS if verb != "schema")]
    assert modules_after(pages, folder).isdisjoint({*HEAVY, "pydantic", "numpy"})


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_the_verb_does(hvdtrain, verb):
    code, out, err = hvdtrain(verb, "--help")
    assert (code, err) == (0, "")
    assert f"Usage: hvdtrain {verb}" in out
    assert (verb in hvdtrain("--help")[1]) == bool(VERBS[verb][1]), "a verb without words is for scripts"


def test_light_verbs_never_import_tensorflow(folder):
    calls = [
        ["plan", "demo.yaml", "--strategy", "mirrored", "--set", "launch.num_ranks=1"],
        ["render", "demo.yaml"],
        ["check", "demo.yaml", "--strategy", "mirrored", "--set", "launch.num_ranks=1"],
        ["schema"],
        ["list"],
        ["run", "--dry-run", "--", "echo"],
    ]
    assert modules_after(calls, folder).isdisjoint({*HEAVY, "numpy"})


# -- scripts ------------------------------------------------------------------------------------


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


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["rnu"], 2, "no command 'rnu'; did you mean 'run'?"),
        (["frobnicate"], 2, "no command 'frobnicate'"),
        (["run"], 2, "run needs a configuration, or -- and a command"),
        (["run", "my.py"], 2, "write: hvdtrain run --ranks N -- python my.py"),
        (["run", "demo.yaml", "x"], 2, "run takes one configuration; got 2 words: demo.yaml x"),
        (["run", "nope.yaml"], 2, "nope.yaml: there is no such file"),
        (["plan", "nope.yaml"], 2, "nope.yaml: there is no such file"),
        (["render", "nope\n.yaml"], 2, "nope\\n.yaml: there is no such file"),
        (["check", "."], 2, ".: this is a directory"),
        (["plan", "empty.yaml"], 2, "empty.yaml: the configuration is empty"),
        (["plan", "latin.yaml"], 2, "latin.yaml:1: not UTF-8 text"),
        (["plan", "demo.yaml", "--set", "x"], 2, "--set x: must have the form key=value"),
        (["plan", "demo.yaml", "--set", "training.epchs=3"], 2, "training.epchs: unknown key; did you mean 'epochs'?"),
        (["plan", "demo.yaml", "--set", "training.epochs=two"], 2, "--set training.epochs=two: training.epochs: must"),
        (["plan", "demo.yaml", "--ranks", "0"], 2, "Invalid value for '--ranks'"),
        (["plan", "demo.yaml", "--rnks", "2"], 2, "--ranks"),
        (["plan"], 2, "Missing argument 'CONFIG'"),
        (["plan", "demo.yaml", "--ranks", "99"], 2, "training.batch_size_per_replica: "),
        (["run", "demo.yaml", "--launcher", "none"], 2, "launcher 'none' starts one rank, but num_ranks is 2"),
        (["run", "--ranks", "2", "--set", "a=b", "--", "echo"], 2, "--timeline and --resume belong to"),
        (["run", "--ranks", "2", "--launcher", "none", "--", "echo"], 3, "got --ranks 2"),
        (["run", "--", "no-such-program"], 4, "no-such-program: no such program on PATH"),
        (["run", "--resume", "nix"], 4, "no run 'nix': give a run directory, a short id or a job id"),
        (["run", "demo.yaml", "--resume", "--strategy", "single", "--ranks", "1"], 4, "--resume: no unfinished run of"),
        (["evaluate", "nix"], 4, "no run 'nix'"),
        (["list", "--runs", "demo.yaml"], 2, "is a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_explained_in_one_message(hvdtrain, folder, arguments, code, expected):
    (folder / "empty.yaml").touch()
    (folder / "latin.yaml").write_bytes(b"name: \xff\n")
    found, out, err = hvdtrain(*arguments)
    assert (found, out) == (code, "")
    assert err.count(expected) == 1, err
    assert "Traceback" not in err
    assert not (folder / "runs").exists(), "nothing may be left behind"


def test_wrong_numbers_are_found_before_a_run_directory_exists(hvdtrain, folder):
    code, _, err = hvdtrain("run", "demo.yaml", "--set", "optimizer.warmup_epochs=9")
    assert code == 2
    assert "optimizer.warmup_epochs" in err
    assert not (folder / "runs").exists()


# -- what is printed ----------------------------------------------------------------------------

HERE = ("--strategy", "mirrored", "--ranks", "1", "--set", "launch.num_devices=2")


def test_plan_as_json(hvdtrain, folder):
    code, out, err = hvdtrain("plan", "demo.yaml", "--json", *HERE)
    plan = json.loads(out)
    assert (code, err) == (0, "")
    assert (plan["num_replicas"], plan["global_batch_size"], plan["steps_per_epoch"]) == (2, 64, 1437 // 64)


def test_plan_prints_the_ledger(hvdtrain, folder):
    code, out, err = hvdtrain("plan", "demo.yaml", "--set", "optimizer.lr_scaling=linear", *HERE)
    assert (code, err) == (0, "")
    assert "0.01 x 2 (linear, 2 replicas)" in out


def test_plan_can_make_a_run_directory_and_list_shows_it(hvdtrain, folder):
    code, out, err = hvdtrain("plan", "demo.yaml", "--new-run", *HERE)
    run = Path(out.strip())
    assert code == 0
    assert run.parent == folder / "runs" / "demo"
    assert "the plan" in err, "the ledger is talk here"
    assert (run / "job.sh").read_text() == hvdtrain("render", "demo.yaml", "--here", *HERE)[1]
    (row,) = json.loads(hvdtrain("list", "--json")[1])
    assert (row["name"], row["state"], row["ranks"]) == ("demo", "unfinished", 1)
    assert (folder / row["path"]) == run
    assert row["id"] in hvdtrain("list")[1]


def test_list_of_nothing_says_how_to_begin(hvdtrain, folder):
    code, out, err = hvdtrain("list")
    assert (code, out) == (0, "")
    assert "hvdtrain run" in err
    assert json.loads(hvdtrain("list", "--json")[1]) == []


def test_dry_run_prints_the_script_of_a_command(hvdtrain, folder):
    code, out, _ = hvdtrain("run", "--dry-run", "--", "echo", "a b")
    assert code == 0
    assert out.splitlines()[-1].endswith(" echo 'a b'")


def test_schema_is_json(hvdtrain):
    schema = json.loads(hvdtrain("schema")[1])
    assert {"name", "model", "data", "training"} <= schema["properties"].keys()


def test_what_follows_a_double_dash_is_the_users_own():
    command = [sys.executable, "-m", "hvdtrain", "run", "--", "python3", "-c", "import sys; sys.exit(7)", "--ranks"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 7


# -- what the machine lacks ---------------------------------------------------------------------


def plan_on(facts: Facts, **launch: object) -> Plan:
    return make_plan(Config.model_validate({**CONFIG, "launch": launch}), facts)


def test_without_horovod_auto_falls_back_loudly(hvdtrain):
    facts = Facts(num_cores=2, mpi="openmpi5", mpi_found="", has_horovod=False, num_gpus=0)
    plan = plan_on(facts)
    assert (plan.strategy, plan.num_ranks, plan.launcher) == ("mirrored", 1, "none")
    assert any("falling back to MirroredStrategy" in text and "build-horovod" in text for text in plan.warnings)
    assert plan_on(Facts(**{**vars(facts), "num_gpus": 4})).num_replicas == 4


HIDE = {
    "horovod": "import importlib.util as u; real = u.find_spec; "
    "u.find_spec = lambda name, *rest: None if name == 'horovod' else real(name, *rest)",
    "mpirun": "sys.executable = '/nowhere/python'",
}


@pytest.mark.parametrize(
    ("hidden", "expected"), [("horovod", "2 ranks were asked for, but Horovod"), ("mpirun", "no mpirun on PATH")]
)
def test_two_ranks_are_refused_where_they_cannot_start(folder, hidden, expected):
    code = f"import sys; {HIDE[hidden]}; from hvdtrain.cli import main; main()"
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": "/nowhere"}
    command = [sys.executable, "-c", code, "run", "demo.yaml"]
    result = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    if hidden == "mpirun" and "Horovod is not installed" in result.stderr:
        missing("horovod", "Horovod is not installed, and that is found first")
    assert result.returncode == 3, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "runs").exists()
