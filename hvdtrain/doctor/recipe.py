"""How Horovod 0.28.1 is built: its source, the options, and the name of the result. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hvdtrain.cache import cache_root

HOROVOD_VERSION = "0.28.1"
SDIST_NAME = f"horovod-{HOROVOD_VERSION}.tar.gz"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
# Part of the key: raise it when a change of this file, or of the adaptations, makes another library.
RECIPE = 2
GPU_CHOICES = ("none", "nccl")
# What of the user's environment decides where a GPU build finds CUDA and NCCL.
GPU_VARIABLES = (
    "HOROVOD_CUDA_HOME",
    "HOROVOD_NCCL_HOME",
    "HOROVOD_NCCL_INCLUDE",
    "HOROVOD_NCCL_LIB",
    "HOROVOD_NCCL_LINK",
)
GB_PER_JOB = 2.0


@dataclass(frozen=True)
class BuildKey:
    """All that a built Horovod depends on; two equal keys may share a wheel.

    Args:
        tensorflow: Version.
        mpi: Vendor and version.
        mpi_prefix: Where it is installed: the path is written into Horovod's library.
        python: Implementation and version tag, `cp311`.
        machine: Processor architecture.
        gpu: `none` or `nccl`, with the places of CUDA and NCCL where they are set.
        cxx_abi: Value of _GLIBCXX_USE_CXX11_ABI that TensorFlow was built with.
    """

    tensorflow: str
    mpi: str
    mpi_prefix: str
    python: str
    machine: str
    gpu: str
    cxx_abi: str
    horovod: str = HOROVOD_VERSION
    recipe: int = RECIPE

    @property
    def local_version(self) -> str:
        """The label after the `+` of the wheel's version: what it was built for, and a digest of the whole key.

        >>> BuildKey("2.21.0", "Open MPI 5.0.11", "/opt/mpi", "cp311", "x86_64", "none", "1").local_version
        'tf2.21.0.openmpi5.0.11.cpu.d4b08268'
        """
        tensorflow = re.sub(r"[^a-z0-9.]", ".", self.tensorflow.lower())
        gpu = "cpu" if self.gpu == "none" else self.gpu.split(" ")[0]
        return f"tf{tensorflow}.{mpi_label(self.mpi)}.{gpu}.{self.digest}"

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that stand for every field."""
        text = json.dumps(asdict(self), sort_keys=True)
        # A leading letter keeps an all-digit digest from being read as a number, whose zeros pip would drop.
        return "d" + hashlib.sha256(text.encode()).hexdigest()[:7]

    @property
    def version(self) -> str:
        """The version under which pip knows this build."""
        return f"{self.horovod}+{self.local_version}"


def mpi_label(mpi: str) -> str:
    """Return an MPI the way the version label of a build writes it.

    >>> mpi_label("Open MPI 5.0.11")
    'openmpi5.0.11'
    """
    return re.sub(r"[^a-z0-9.]", "", mpi.lower())


def build_environment(key: BuildKey, environ: Mapping[str, str], *, path: str, num_jobs: int) -> dict[str, str]:
    """Return the environment of the build: the user's, with Horovod's options set.

    Args:
        key: What is built.
        environ: The user's environment. Its own `HOROVOD_*` options are replaced, except where CUDA and NCCL are.
        path: PATH with the environment's mpicxx and cmake in front.
        num_jobs: Compilers at a time, unless the user says otherwise in MAKEFLAGS.
    """
    kept = {name: value for name, value in environ.items() if _is_kept(name)}
    return {**kept, "PATH": path, "MAKEFLAGS": environ.get("MAKEFLAGS") or f"-j{num_jobs}", **build_options(key)}


def build_options(key: BuildKey) -> dict[str, str]:
    """Return the variables that tell Horovod's build what to include."""
    options = {
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_LOCAL_VERSION": key.local_version,
        # Horovod's bundled Gloo asks for a policy version that CMake 4 no longer knows.
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
    }
    if key.gpu.startswith("nccl"):
        options |= {"HOROVOD_GPU": "CUDA", "HOROVOD_GPU_OPERATIONS": "NCCL"}
    return options


def gpu_label(gpu: str, environ: Mapping[str, str]) -> str:
    """Return the GPU part of the key.

    >>> gpu_label("nccl", {"HOROVOD_NCCL_HOME": "/opt/nccl"})
    'nccl HOROVOD_NCCL_HOME=/opt/nccl'
    """
    places = [f"{name}={environ[name]}" for name in GPU_VARIABLES if gpu != "none" and environ.get(name)]
    return " ".join([gpu, *places])


def num_build_jobs(num_cores: int, memory_gb: float | None) -> int:
    """Return how many compilers fit this machine.

    >>> num_build_jobs(8, 5.0)
    2
    """
    by_memory = num_cores if memory_gb is None else int(memory_gb // GB_PER_JOB)
    return max(1, min(num_cores, by_memory))


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return where sources, wheels and logs are kept.

    >>> cache_directory({"XDG_CACHE_HOME": "/scratch/me"}).as_posix()
    '/scratch/me/hvdtrain/horovod'
    """
    return cache_root(environ) / "horovod"


def _is_kept(name: str) -> bool:
    return name in GPU_VARIABLES or name == "HOROVOD_BUILD_ARCH_FLAGS" or not name.startswith("HOROVOD_")
