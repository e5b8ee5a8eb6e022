"""What an image holds, and whether hvdtrain can train in it: asked inside the image, judged outside."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from hvdtrain.doctor.findings import OLDEST_PYTHON, OLDEST_TENSORFLOW, Finding, version_tuple
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.launch.container import image_complaint

TIMEOUT_S = 600.0
MARK = "hvdtrain-image:"
# For any Python 3: an image may hold an old one, and that is the finding then.
PROBE = f"""
import json, os, subprocess, sys
found = {{"python": "%d.%d.%d" % sys.version_info[:3]}}
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
for name in ("tensorflow", "keras", "horovod", "mpi4py", "xxhash", "google_crc32c", "hvdtrain"):
    try:
        module = __import__(name)
        found[name] = str(getattr(module, "__version__", "there"))
    except BaseException as error:
        found[name + " error"] = "%s: %s" % (type(error).__name__, error)
if "horovod" in found:
    try:
        import horovod.tensorflow as hvd
        found["horovod mpi"], found["horovod gloo"] = bool(hvd.mpi_built()), bool(hvd.gloo_built())
    except BaseException as error:
        found["horovod error"] = "%s: %s" % (type(error).__name__, error)
try:
    said = subprocess.check_output(["mpirun", "--version"], stderr=subprocess.STDOUT)
    found["mpirun"] = said.decode().splitlines()[0]
except Exception as error:
    found["mpirun error"] = str(error)
print({MARK!r} + json.dumps(found))
"""
TRAIN_ELSEWHERE = "another image"


def look_inside(image: str, *, runtime: str, python: str, python_path: str | None) -> dict[str, Any]:
    """Return what the image's Python finds.

    Args:
        image: File or reference.
        runtime: `apptainer` or `singularity`.
        python: The image's Python.
        python_path: Folder on the host with hvdtrain for it.

    Raises:
        EnvironmentNotFitError: If the runtime is not there or the image does not start.
    """
    program = shutil.which(runtime)
    if program is None:
        raise EnvironmentNotFitError(f"{runtime} is not on PATH; on many clusters it is on compute nodes only")
    bind = ["--bind", python_path] if python_path else []
    path = [f"PYTHONPATH={python_path}"] if python_path else []
    inside = ["env", "-u", "LD_LIBRARY_PATH", "-u", "PYTHONPATH", *path, "PYTHONNOUSERSITE=1", python, "-c", PROBE]
    command = [program, "exec", *bind, image, *inside]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentNotFitError(f"{image} does not answer within {TIMEOUT_S:g} s") from None
    for line in result.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found
    last = (result.stderr.strip().splitlines() or ["nothing was printed"])[-1]
    raise EnvironmentNotFitError(f"{image} does not start {python}: {last}")


def judge_image(image: str, seen: Mapping[str, Any], *, host_mpi: str) -> list[Finding]:
    """Return the findings about an image.

    Args:
        image: Its name, which may tell of what it is.
        seen: What its Python found.
        host_mpi: What `mpirun --version` says outside.
    """
    findings = [
        _at_least("python", str(seen["python"]), OLDEST_PYTHON, "hvdtrain needs Python 3.10 or newer"),
        _module(seen, "tensorflow", OLDEST_TENSORFLOW, "older than 2.16, the first release with Keras 3"),
        _module(seen, "keras", (3,), "hvdtrain's optimizer is for Keras 3"),
        _module(seen, "horovod", (0, 28), "hvdtrain was tried with 0.28.1"),
        _module(seen, "hvdtrain", (), "", fix="container.python_path: a folder made with pip install --target"),
        _module(seen, "xxhash", (), "", fix="install it beside hvdtrain"),
        _module(seen, "google_crc32c", (), "", fix="install google-crc32c beside hvdtrain"),
        _mpi(seen, host_mpi),
    ]
    complaint = image_complaint(image)
    if complaint is not None:
        findings.append(Finding("image", "error" if complaint[1] else "warning", image, complaint[0], TRAIN_ELSEWHERE))
    return findings


def _at_least(name: str, version: str, oldest: tuple[int, ...], cause: str, fix: str = TRAIN_ELSEWHERE) -> Finding:
    if version_tuple(version) < oldest:
        return Finding(name, "error", version, cause, fix)
    return Finding(name, "ok", version)


def _module(
    seen: Mapping[str, Any], name: str, oldest: tuple[int, ...], cause: str, fix: str = TRAIN_ELSEWHERE
) -> Finding:
    if f"{name} error" in seen:
        return Finding(name, "error", "does not import", str(seen[f"{name} error"]), fix)
    return _at_least(name, str(seen[name]), oldest, cause, fix) if oldest else Finding(name, "ok", str(seen[name]))


def _mpi(seen: Mapping[str, Any], host_mpi: str) -> Finding:
    inside = str(seen.get("mpirun", seen.get("mpirun error", "none")))
    if _vendor(inside) == _vendor(host_mpi) is not None:
        return Finding("mpi", "ok", f"{inside}; outside: {host_mpi}")
    fix = (
        "launch.launcher: native, without MPI" if seen.get("horovod gloo") else "an image whose Horovod has Gloo"
    )
    cause = "the MPI inside and the one outside that starts the ranks must be of one vendor and major version"
    return Finding("mpi", "warning", f"{inside}; outside: {host_mpi}", cause, fix)


def _vendor(text: str) -> tuple[str, str] | None:
    """Return (vendor, major version) of what `mpirun --version` prints.

    >>> _vendor("mpirun (Open MPI) 5.0.11")
    ('Open MPI', '5')
    """
    found = re.search(r"(Open MPI|Intel\(R\) MPI|HYDRA)\D*(\d+)", text)
    return (found[1], found[2]) if found else None
