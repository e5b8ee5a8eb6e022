"""Judge a survey: each check one finding with its cause and its fix. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hvdtrain.doctor.advice import (
    BUILD_HOROVOD,
    RUNTIME_PACKAGES,
    SYSTEM_PACKAGES,
    build_command,
    install_mpi,
    install_tensorflow,
    pip_install,
)
from hvdtrain.doctor.diagnose import diagnose
from hvdtrain.doctor.ranks import EXPECTED_SUM, NUM_RANKS, core_list
from hvdtrain.doctor.recipe import mpi_label
from hvdtrain.doctor.survey import Survey

Status = Literal["ok", "warning", "error"]
OLDEST_PYTHON = (3, 10)
OLDEST_TENSORFLOW = (2, 16)


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        check: Name of the check.
        status: `error` means that training on several ranks cannot work.
        found: What is there, in a line.
        cause: Why it is not well; empty for `ok`.
        fix: What to type; empty for `ok`.
    """

    check: str
    status: Status
    found: str
    cause: str = ""
    fix: str = ""


def judge(survey: Survey) -> list[Finding]:
    """Return the findings in the order in which their fixes should be applied."""
    findings = [
        judge_python(survey),
        judge_tensorflow(survey),
        judge_keras(survey),
        judge_numpy(survey),
        judge_mpi(survey),
        judge_mpi4py(survey),
        judge_runtime_packages(survey),
        judge_horovod(survey),
        judge_build(survey),
        judge_libmpi(survey),
        judge_operations(survey),
        judge_gpus(survey),
        judge_ranks(survey),
        judge_cores(survey),
    ]
    return [finding for finding in findings if finding]


def can_train(findings: list[Finding]) -> bool:
    """Whether nothing found here keeps several ranks from training."""
    return all(finding.status != "error" for finding in findings)


def judge_python(survey: Survey) -> Finding:
    """Check the version of Python."""
    found = f"{survey.python} ({survey.executable})"
    if version_tuple(survey.python) >= OLDEST_PYTHON:
        return Finding("python", "ok", found)
    cause = "hvdtrain needs Python 3.10 or newer"
    return Finding("python", "error", found, cause, "make setup PYTHON=/path/to/python3.11")


def judge_tensorflow(survey: Survey) -> Finding:
    """Check that TensorFlow imports and is new enough to come with Keras 3."""
    facts = survey.tensorflow
    fix = install_tensorflow(survey)
    if "error" in facts:
        if _is_missing_module(facts, "tensorflow"):
            return Finding("tensorflow", "error", "not installed", "this Python has no TensorFlow", fix)
        return Finding("tensorflow", "error", "does not import", last_line(facts["error"]), fix)
    version = str(facts["version"])
    found = f"{version}, {'CUDA' if facts['is_cuda_build'] else 'CPU'} build"
    if version_tuple(version) < OLDEST_TENSORFLOW:
        return Finding("tensorflow", "error", found, "older than 2.16, the first release with Keras 3", fix)
    return Finding("tensorflow", "ok", found)


def judge_keras(survey: Survey) -> Finding | None:
    """Check that `import keras` is Keras 3 on TensorFlow; says nothing when TensorFlow is already in the way."""
    facts = survey.keras
    if "error" in survey.tensorflow and "error" in facts:
        return None
    if "error" in facts:
        fix = pip_install(survey.executable, "keras>=3")
        return Finding("keras", "error", "does not import", last_line(facts["error"]), fix)
    found = f"{facts['version']} on {facts['backend']}"
    if version_tuple(str(facts["version"])) < (3,):
        fix = pip_install(survey.executable, "keras>=3")
        return Finding("keras", "error", found, "hvdtrain's optimizer is for Keras 3", fix)
    if facts["backend"] != "tensorflow":
        return Finding("keras", "error", found, "Horovod reduces TensorFlow tensors", "export KERAS_BACKEND=tensorflow")
    if survey.variables.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):
        cause = "TF_USE_LEGACY_KERAS makes tf.keras another Keras than `import keras`"
        return Finding("keras", "warning", found, cause, "unset TF_USE_LEGACY_KERAS")
    return Finding("keras", "ok", found)


def judge_numpy(survey: Survey) -> Finding | None:
    """State NumPy's version; a broken one shows up in TensorFlow's import."""
    version = survey.packages.get("numpy")
    return Finding("numpy", "ok", version) if version else None


def judge_mpi(survey: Survey) -> Finding:
    """Check that there is an mpirun that hvdtrain can start ranks with."""
    mpi = survey.mpi
    if mpi is None:
        return Finding("mpi", "error", "no mpirun on PATH", "nothing here can start ranks", install_mpi(survey))
    if mpi.complaint:
        cause = last_line(mpi.complaint)
        return Finding("mpi", "error", f"{mpi.mpirun} does not run", cause, install_mpi(survey))
    found = f"{mpi} ({mpi.mpirun})"
    if mpi.dialect is None:
        cause = "hvdtrain starts ranks with Open MPI 4 or 5 only"
        return Finding("mpi", "error", found, cause, install_mpi(survey))
    if mpi.mpicxx is None:
        cause = "it has no mpicxx, so Horovod cannot be built for it"
        return Finding("mpi", "warning", found, cause, "apt-get install libopenmpi-dev    # or load its module")
    return Finding("mpi", "ok", f"{found}, dialect {mpi.dialect}")


def judge_mpi4py(survey: Survey) -> Finding:
    """Check that mpi4py imports and finds an MPI library of the version that mpirun is of."""
    facts = survey.mpi4py
    rebuild = _rebuild_mpi4py(survey)
    if "error" in facts:
        if _is_missing_module(facts, "mpi4py"):
            fix = pip_install(survey.executable, "mpi4py>=4.0")
            return Finding("mpi4py", "error", "not installed", "the ranks' start-up checks need it", fix)
        fix = rebuild if survey.mpi else install_mpi(survey)
        return Finding("mpi4py", "error", "does not import", last_line(facts["error"]), fix)
    found = f"{facts['version']} with {facts['library']}"
    mpi = survey.mpi
    if mpi and mpi.version and mpi.version not in str(facts["library"]):
        cause = f"mpirun is {mpi}: under it every process would be a world of its own"
        return Finding("mpi4py", "error", found, cause, rebuild)
    return Finding("mpi4py", "ok", found)


def judge_runtime_packages(survey: Survey) -> Finding | None:
    """Check the packages that Horovod imports; says nothing when they are there."""
    missing = [name for name in RUNTIME_PACKAGES if name not in survey.packages]
    if not missing:
        return None
    fix = pip_install(survey.executable, *missing)
    return Finding("packages", "error", f"missing: {', '.join(missing)}", "Horovod imports them", fix)


def judge_horovod(survey: Survey) -> Finding:
    """Check that Horovod's TensorFlow library loads and was built with MPI."""
    facts = survey.horovod
    if "error" in facts:
        return _horovod_fails(survey, str(facts["error"]))
    parts = [name for name in ("MPI", "Gloo", "NCCL") if facts[f"has_{name.lower()}"]]
    found = f"{survey.packages.get('horovod', 'version unknown')} with {', '.join(parts) or 'nothing'}"
    if not facts["has_mpi"]:
        cause = "it was built without MPI, and hvdtrain starts ranks with mpirun"
        return Finding("horovod", "error", found, cause, _rebuild(survey))
    return Finding("horovod", "ok", found)


def _horovod_fails(survey: Survey, error: str) -> Finding:
    if "horovod" not in survey.packages:
        tools = " ".join(package for tool, package in SYSTEM_PACKAGES.items() if tool not in survey.tools)
        first = f"apt-get install {tools} && " if tools else ""
        cause = "it must be built for this TensorFlow and MPI" + (f", and {tools} is missing" if tools else "")
        return Finding("horovod", "error", "not installed", cause, first + build_command(survey))
    found = f"{survey.packages['horovod']} does not import"
    if "error" in survey.tensorflow:
        return Finding("horovod", "error", found, "TensorFlow does not import either", install_tensorflow(survey))
    known = diagnose(error)
    if known.name == "unknown":
        return Finding("horovod", "error", found, last_line(error), _rebuild(survey))
    return Finding("horovod", "error", found, f"{known.summary} {known.error_line}".strip(), known.fix)


def judge_build(survey: Survey) -> Finding | None:
    """Compare what Horovod was built for with what runs now; says nothing when Horovod does not load."""
    if "error" in survey.horovod or "error" in survey.tensorflow:
        return None
    built = built_for(survey)
    now = {"TensorFlow": str(survey.tensorflow["version"])}
    if survey.mpi and survey.mpi.version:
        now["MPI"] = mpi_label(str(survey.mpi))
    found = ", ".join(f"{name} {version}" for name, version in built.items()) or "no record"
    for name, version in now.items():
        if name in built and built[name] != version:
            cause = f"built for {name} {built[name]}, but {version} runs now"
            return Finding("horovod build", "error", f"built for {found}", cause, _rebuild(survey))
    return Finding("horovod build", "ok", f"built for {found}")


def built_for(survey: Survey) -> dict[str, str]:
    """Return what Horovod's version label (`0.28.1+tf2.21.0.openmpi5.0.11.cpu.d1234567`) and its own record say."""
    label = survey.packages.get("horovod", "").partition("+")[2]
    match = re.fullmatch(r"tf(?P<tf>[^a-z]+)\.(?P<mpi>[a-z]+[0-9.]*)\.(?:cpu|nccl)\.\w+", label)
    tensorflow = match["tf"] if match else survey.horovod.get("tensorflow_built")
    parts = {"TensorFlow": tensorflow, "MPI": match["mpi"] if match else None}
    return {name: str(version) for name, version in parts.items() if version}


def judge_libmpi(survey: Survey) -> Finding | None:
    """Check that Horovod, mpi4py and mpirun are of one MPI, by the library files that processes really map."""
    by_horovod = _libraries(survey.horovod)
    by_mpi4py = _libraries(survey.mpi4py)
    if not by_horovod or not by_mpi4py:
        return None
    if by_horovod != by_mpi4py:
        cause = "two MPI libraries in one process: start-up may hang or see separate worlds"
        found = f"Horovod: {_shown(by_horovod)}; mpi4py: {_shown(by_mpi4py)}"
        return Finding("libmpi", "error", found, cause, f"{_rebuild_mpi4py(survey)} && {_rebuild(survey)}")
    if len(by_horovod) > 1:
        cause = "more than one MPI library is loaded at once"
        return Finding("libmpi", "error", _shown(by_horovod), cause, _rebuild(survey))
    return Finding("libmpi", "ok", f"Horovod and mpi4py both use {_shown(by_horovod)}")


def judge_operations(survey: Survey) -> Finding | None:
    """Check that our own operations are built; says nothing where there is no TensorFlow."""
    if "error" in survey.tensorflow:
        return None
    if survey.has_operations:
        return Finding("operations", "ok", "built for this TensorFlow")
    cause = "ranks of one machine average gradients through Horovod, and Adam takes Keras's ten passes: slower"
    return Finding("operations", "warning", "not built", cause, BUILD_HOROVOD)


def judge_gpus(survey: Survey) -> Finding:
    """Check that GPUs, where there are any, are used by TensorFlow and by Horovod."""
    num_gpus = survey.num_gpus
    if not num_gpus:
        return Finding("gpus", "ok", "none visible: training runs on the CPU")
    found = f"{num_gpus} visible"
    if not survey.tensorflow.get("num_gpus"):
        cause = "TensorFlow does not use them"
        return Finding("gpus", "warning", found, cause, install_tensorflow(survey))
    if "error" not in survey.horovod and not survey.horovod["has_nccl"]:
        cause = "Horovod was built without NCCL: every gradient goes through the host's memory"
        return Finding("gpus", "warning", found, cause, f"{BUILD_HOROVOD} --gpu nccl")
    return Finding("gpus", "ok", f"{found}, used by TensorFlow")


def judge_ranks(survey: Survey) -> Finding | None:
    """Check the real start of 2 ranks and their sum; says nothing when there was none to try."""
    start = survey.ranks
    if start is None:
        return None
    if start.adds_up:
        return Finding("ranks", "ok", f"{NUM_RANKS} ranks started and added up to {EXPECTED_SUM}")
    alone = [rank for rank in start.ranks if rank.mpi_world.get("size") == 1]
    if len(alone) == NUM_RANKS:
        cause = "mpirun started the ranks, but to mpi4py each is alone: they use another MPI than mpirun"
        return Finding("ranks", "error", f"{NUM_RANKS} separate worlds", cause, _fix_elsewhere(survey))
    if len(start.ranks) < NUM_RANKS:
        known = diagnose(start.complaint)
        cause = known.error_line or known.summary
        fix = known.fix if known.name != "unknown" else f"run it by hand: {start.command} hostname"
        return Finding("ranks", "error", f"{len(start.ranks)} of {NUM_RANKS} ranks started", cause, fix)
    if "error" in survey.horovod or "error" in survey.tensorflow:
        found = f"{NUM_RANKS} ranks start, but cannot train"
        return Finding("ranks", "error", found, "TensorFlow or Horovod is missing, see above", _fix_elsewhere(survey))
    return Finding("ranks", "error", "the ranks cannot add numbers", last_line(start.complaint), _rebuild(survey))


def judge_cores(survey: Survey) -> Finding | None:
    """Check that there is at least a core per rank; says nothing when no rank started."""
    start = survey.ranks
    if start is None or not start.ranks:
        return None
    cores = {(rank.host, core) for rank in start.ranks for core in rank.cores}
    found = "; ".join(f"rank {rank.rank} -> {rank.host}, {core_list(rank.cores)}" for rank in start.ranks)
    if len(cores) < len(start.ranks):
        cause = f"{len(start.ranks)} ranks share {len(cores)} core: they take turns"
        return Finding("cores", "warning", found, cause, "ask the queue for a core per rank (--cpus-per-task)")
    return Finding("cores", "ok", found)


def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparison.

    >>> version_tuple("2.21.0-rc1")
    (2, 21, 0)
    """
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def last_line(text: object) -> str:
    """Return the last line that says something: Python and mpirun put the point at the end."""
    return next((line.strip() for line in reversed(str(text).splitlines()) if line.strip()), "no reason was printed")


def _is_missing_module(facts: Mapping[str, Any], name: str) -> bool:
    return str(facts["error"]).startswith(f"ModuleNotFoundError: No module named '{name}'")


def _libraries(facts: Mapping[str, Any]) -> list[str]:
    return sorted({str(Path(path).resolve()) for path in facts.get("libmpi", [])})


def _shown(paths: list[str]) -> str:
    return " and ".join(paths)


def _rebuild_mpi4py(survey: Survey) -> str:
    options = ("--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "mpi4py")
    return pip_install(survey.executable, *options, "mpi4py")


def _rebuild(survey: Survey) -> str:
    return build_command(survey) + " --force"


def _fix_elsewhere(survey: Survey) -> str:
    return f"apply the fixes above, then: {BUILD_HOROVOD}" if "error" in survey.horovod else _rebuild(survey)
