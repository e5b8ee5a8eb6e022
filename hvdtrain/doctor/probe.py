"""What a child process sees: `python -m hvdtrain.doctor.probe stack | mpi4py | rank`.

Each stage prints one marked JSON line as soon as it is known, so that a crash later on hides nothing. The
only place of the doctor where TensorFlow, Horovod and mpi4py are loaded, always in a process of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "hvdtrain-probe:"
MAPS = Path("/proc/self/maps")


def main(name: str) -> None:
    """Run one probe: the named stages in turn, each reported on its own."""
    for stage, look in PROBES[name]:
        report(stage, look)


def report(stage: str, look: Callable[[], dict[str, Any]]) -> None:
    """Print what `look` returns or why it could not: any exception is a finding here, not a bug."""
    try:
        facts = look()
    except Exception as error:
        facts = {"error": f"{type(error).__name__}: {error}"}
    line = f"{MARK}{json.dumps({'stage': stage, 'pid': os.getpid(), 'facts': facts})}\n"
    # One write for one line: the ranks share a pipe.
    os.write(sys.stdout.fileno(), line.encode())


def tensorflow() -> dict[str, Any]:
    """Return TensorFlow as it runs, not as its package claims."""
    tf = importlib.import_module("tensorflow")
    flags = tf.sysconfig.get_compile_flags()
    return {
        "version": tf.__version__,
        "cxx_abi": "1" if "-D_GLIBCXX_USE_CXX11_ABI=1" in flags else "0",
        "compile_flags": flags,
        "link_flags": tf.sysconfig.get_link_flags(),
        "is_cuda_build": bool(tf.test.is_built_with_cuda()),
        "num_gpus": len(tf.config.list_physical_devices("GPU")),
    }


def keras() -> dict[str, Any]:
    """Return the Keras that `import keras` finds."""
    module = importlib.import_module("keras")
    return {"version": module.__version__, "backend": module.config.backend()}


def horovod() -> dict[str, Any]:
    """Return how Horovod was built and which MPI library it brought into the process."""
    hvd = importlib.import_module("horovod.tensorflow")
    return {
        "package": package_directory(),
        "tensorflow_built": built_tensorflow(Path(package_directory())),
        "has_mpi": bool(hvd.mpi_built()),
        "has_gloo": bool(hvd.gloo_built()),
        "has_nccl": bool(hvd.nccl_built()),
        "libmpi": mapped_libmpi(),
    }


def package_directory() -> str:
    """Return where the Horovod of this process lies."""
    return str(Path(importlib.import_module("horovod").__file__ or "").parent)


def built_tensorflow(package: Path) -> str | None:
    """Return the TensorFlow version that Horovod's own build record names."""
    try:
        version: str | None = json.loads((package / "metadata.json").read_text()).get("tensorflow")
    except (OSError, ValueError):
        return None
    return version


def mpi4py() -> dict[str, Any]:
    """Return the MPI library that mpi4py finds, without starting MPI."""
    package = importlib.import_module("mpi4py")
    package.rc.initialize = False
    mpi = importlib.import_module("mpi4py.MPI")
    return {
        "version": package.__version__,
        "library": mpi.Get_library_version().strip("\0 \n").split(",")[0],
        "libmpi": mapped_libmpi(),
    }


def mapped_libmpi() -> list[str]:
    """Return the real paths of the MPI libraries that are mapped into this process."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return []
    # 7f3a1c000000-7f3a1c0a0000 r-xp 00000000 08:01 1234   /usr/lib/x86_64-linux-gnu/libmpi.so.40.30.4
    paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if os.path.basename(path).startswith(("libmpi.so", "libmpich.so")))


def place() -> dict[str, Any]:
    """Return who and where this rank is, as its launcher says."""
    from hvdtrain.launch.rank import rank_info

    info = rank_info(os.environ)
    return {
        "rank": info.rank,
        "size": info.size,
        "host": socket.gethostname(),
        "cores": sorted(os.sched_getaffinity(0)),
    }


def mpi_world() -> dict[str, Any]:
    """Return the world as mpi4py sees it."""
    mpi = importlib.import_module("mpi4py.MPI")
    return {"size": mpi.COMM_WORLD.Get_size()}


def allreduce() -> dict[str, Any]:
    """Return the sum of rank + 1 over all ranks, by a Horovod allreduce of a TensorFlow tensor."""
    tf = importlib.import_module("tensorflow")
    hvd = importlib.import_module("horovod.tensorflow")
    hvd.init()
    total = hvd.allreduce(tf.constant([hvd.rank() + 1.0]), op=hvd.Sum)
    return {"size": hvd.size(), "sum": float(total[0]), "package": package_directory()}


Stages = tuple[tuple[str, Callable[[], dict[str, Any]]], ...]
STACK: Stages = (("tensorflow", tensorflow), ("keras", keras), ("horovod", horovod))
PROBES: dict[str, Stages] = {
    "stack": STACK,
    "mpi4py": (("mpi4py", mpi4py),),
    # Horovod is loaded before mpi4py, so that its libmpi is the one that it finds by itself.
    "rank": (("place", place), *STACK, ("mpi_world", mpi_world), ("allreduce", allreduce)),
}

if __name__ == "__main__":
    main(sys.argv[1])
