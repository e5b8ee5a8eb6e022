"""The command line without TensorFlow: what verbs print, import and refuse."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hvdtrain.cli import VERBS
from hvdtrain.config import Config
from hvdtrain.facts import Facts
from hvdtrain.plan import Plan, make_plan
from hvdtrain.rundir import RunDir
from tests.conftest import CONFIG, PROJECT, missing

HEAVY = ("tensorflow", "keras", "horovod", "mpi4py")
HERE = ("--strategy", "mirrored", "--ranks", "1", "--set", "launch.num_devices=2")


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


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["rnu"], 2, "no command 'rnu'; did you mean 'run'?"),
        (["frobnicate"], 2, "no command 'frobnicate'"),
        (["run"], 2, "run needs a configuration, or -- and a command"),
        (["run", "my.py"], 2, "write: hvdtrain run --ranks N -- python my.py"),
        (["run", "demo.yaml", "x"], 2, "run takes one configuration; got 2 words: demo.yaml x"),
        (["submit", "demo.yaml", "x"], 2, "submit takes one configuration; got 2 words: demo.yaml x\n"),
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
        (["run", "--launcher", "srun", "--ranks", "2", "--", "echo"], 2, "there are auto, mpirun and none"),
        (["interact", "--site", "bridges2", "--dry-run", "--gpu", "1"], 2, "No such option"),
        (["scale", "demo.yaml", "--repeats", "7", "--collect", "nix"], 2, "alone; got demo.yaml, --repeats"),
        (["scale", "--ranks", "1,2", "--resume", "nix"], 2, "takes --studies alone; got --ranks"),
        (["scale", "demo.yaml", "--ranks", "1", "--wait"], 2, "name the cluster: --site SITE"),
        (["scale", "demo.yaml", "--ranks", "1", "--ranks-per-node", "2"], 2, "name the cluster: --site SITE"),
        (["ladder", "--resume", "nix", "--models", "fc_64_64"], 2, "takes --studies alone; got --models"),
        (["sweep", "--collect", "nix", "--parallel", "2"], 2, "a sweep goes on as it began"),
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


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["plan", "demo.yaml", "--new-run", "--runs", "demo.yaml/runs"], "demo.yaml/runs"),
        (["plan", "demo.yaml", "--new-run", "--runs", "/proc/runs"], "/proc/runs"),
    ],
)
def test_a_path_that_the_system_refuses_is_one_line(hvdtrain, folder, arguments, place):
    code, out, err = hvdtrain(*arguments, *HERE)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"hvdtrain: {place}"), err
    assert err.splitlines()[-1].endswith("; check this path, or give another one")


@pytest.mark.parametrize("arguments", [["schema"], ["plan", "demo.yaml", *HERE], ["list", "--json"]])
def test_a_full_disk_below_the_output_has_its_exit_code(folder, arguments):
    command = [sys.executable, "-m", "hvdtrain", *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.returncode == 73
    assert result.stderr == "hvdtrain: No space left on device; free some space or choose another disk\n"


# -- what is printed ----------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("options", "verb", "alone"),
    [
        (HERE, "run", []),
        (("--site", "bridges2", "--set", "slurm.array=0-3"), "submit", ["--set", "slurm.array=null"]),
    ],
)
def test_the_command_of_a_run_repeats_it(hvdtrain, folder, monkeypatch, tmp_path_factory, options, verb, alone):
    run = RunDir(Path(hvdtrain("plan", "demo.yaml", "--set", "training.seed=5", "--new-run", *options)[1].strip()))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    words = shlex.split(run.command.read_text())
    assert words[:5] == ["cd", str(folder), "&&", "hvdtrain", verb]
    code, out, err = hvdtrain("plan", *words[5:], "--json", *(["--site", "bridges2"] if alone else []))
    assert code == 0, err
    again, before = json.loads(out), json.loads(run.plan.read_text())
    assert words[6:] == alone
    assert again["config"].pop("slurm")["array"] is None
    before["config"].pop("slurm")
    assert again == before


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
