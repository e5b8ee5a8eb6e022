"""The Horovod builder: the recipe and the diagnosis on text, the rest with the real Horovod of this environment."""

import importlib.metadata
import io
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hvdtrain.cache import cache_root
from hvdtrain.doctor.adaptations import WITHOUT_XLA
from hvdtrain.doctor.builder import is_genuine
from hvdtrain.doctor.diagnose import KNOWN_CAUSES, diagnose, first_error_line
from hvdtrain.doctor.progress import Progress, run_logged
from hvdtrain.doctor.recipe import (
    BuildKey,
    build_environment,
    build_options,
    cache_directory,
    gpu_label,
    num_build_jobs,
)
from tests.conftest import missing
from tests.workdir import wait_for

KEY = BuildKey(
    tensorflow="2.21.0",
    mpi="Open MPI 5.0.11",
    mpi_prefix="/env",
    python="cp311",
    machine="x86_64",
    gpu="none",
    cxx_abi="1",
)

CMAKE_LIST = """\
add_definitions(-DTENSORFLOW_VERSION=${VERSION_DEC})

# TF SOURCES
list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/mpi_ops.cc")
list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")

# Create library
add_library(${TF_TARGET_LIB} SHARED ${SOURCES} ${TF_SOURCES})
"""


def test_only_the_xla_source_leaves_the_cmake_list():
    line = 'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n'
    assert WITHOUT_XLA.apply(CMAKE_LIST) == CMAKE_LIST.replace(line, "")


def test_an_unexpected_source_is_refused():
    with pytest.raises(ValueError, match=r"CMakeLists.txt has .*xla_mpi_ops.* 0 times, not 1"):
        WITHOUT_XLA.apply(WITHOUT_XLA.apply(CMAKE_LIST))


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("tensorflow", "2.20.0"),
        ("mpi", "Open MPI 4.1.4"),
        ("mpi_prefix", "/usr"),
        ("python", "cp312"),
        ("machine", "aarch64"),
        ("gpu", "nccl"),
        ("cxx_abi", "0"),
        ("recipe", 0),
    ],
)
def test_every_part_of_the_key_makes_another_wheel(field, other):
    assert replace(KEY, **{field: other}).version != KEY.version


def test_the_version_is_what_pip_makes_of_it():
    from packaging.version import Version

    strange = replace(KEY, tensorflow="2.22.0-rc1", mpi="Intel MPI 2021.11", gpu="nccl HOROVOD_NCCL_HOME=/x y")
    for key in (KEY, strange):
        assert str(Version(key.version)) == key.version
        assert Version(key.version) in _specifier("==0.28.1")


def _specifier(text):
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(text)


def test_options_of_a_cpu_build():
    assert build_options(KEY) == {
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_LOCAL_VERSION": KEY.local_version,
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
    }


def test_nccl_adds_the_gpu_operations():
    options = build_options(replace(KEY, gpu="nccl HOROVOD_NCCL_HOME=/opt/nccl"))
    assert options["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert options["HOROVOD_GPU"] == "CUDA"


def test_left_over_horovod_settings_do_not_reach_the_build():
    environ = {"HOROVOD_WITHOUT_MPI": "1", "HOROVOD_NCCL_HOME": "/opt/nccl", "HOME": "/home/me", "PATH": "/bin"}
    built = build_environment(KEY, environ, path="/env/bin:/bin", num_jobs=3)
    assert "HOROVOD_WITHOUT_MPI" not in built
    assert built["HOROVOD_NCCL_HOME"] == "/opt/nccl"
    assert built["PATH"] == "/env/bin:/bin"
    assert built["MAKEFLAGS"] == "-j3"


def test_the_user_decides_the_number_of_jobs():
    assert build_environment(KEY, {"MAKEFLAGS": "-j1"}, path="", num_jobs=8)["MAKEFLAGS"] == "-j1"


@pytest.mark.parametrize(("cores", "memory_gb", "jobs"), [(2, 16.0, 2), (64, 16.0, 8), (4, 1.0, 1), (4, None, 4)])
def test_jobs_fit_cores_and_memory(cores, memory_gb, jobs):
    assert num_build_jobs(cores, memory_gb) == jobs


def test_a_cpu_build_does_not_depend_on_where_nccl_is():
    assert gpu_label("none", {"HOROVOD_NCCL_HOME": "/opt/nccl"}) == "none"


@pytest.mark.parametrize("root", ["", "relative/path"])
def test_the_cache_is_in_home_unless_told_otherwise(root):
    # A relative XDG_CACHE_HOME is invalid by its specification and must be ignored.
    environ = {"HOME": "/home/me", "XDG_CACHE_HOME": root}
    assert cache_directory(environ) == Path("/home/me/.cache/hvdtrain/horovod")


def test_a_changed_archive_is_noticed(tmp_path):
    archive = tmp_path / "horovod-0.28.1.tar.gz"
    archive.write_bytes(b"not the release")
    assert not is_genuine(archive)


# What the tools really print, shortened.
LOGS = {
    "no-tensorflow": """\
  ModuleNotFoundError: No module named 'tensorflow'
  CMake Error at /usr/share/cmake-3.25/Modules/FindPackageHandleStandardArgs.cmake:230 (message):
    Could NOT find Tensorflow (missing: Tensorflow_LIBRARIES) (Required is at
    least version "1.15.0")
  subprocess.CalledProcessError: Command '['cmake', ...]' returned non-zero exit status 1.
""",
    "isolated-build": """\
  Installing build dependencies: started
  Running command /tmp/pip-build-env-9z1c/overlay/bin/cmake
  ModuleNotFoundError: No module named 'tensorflow'
    Could NOT find Tensorflow (missing: Tensorflow_LIBRARIES)
""",
    "cmake-4-policy": """\
  CMake Error at third_party/gloo/CMakeLists.txt:1 (cmake_minimum_required):
    Compatibility with CMake < 3.5 has been removed from CMake.

    Update the VERSION argument <min> value.  Or, use the <min>...<max> syntax
""",
    "no-mpi": """\
  -- Could NOT find MPI_CXX (missing: MPI_CXX_LIB_NAMES MPI_CXX_HEADER_DIR MPI_CXX_WORKS)
  CMake Error at FindPackageHandleStandardArgs.cmake:290 (message):
    Could NOT find MPI (missing: MPI_CXX_FOUND)
""",
    "abi-mismatch": """\
tensorflow.python.framework.errors_impl.NotFoundError: /env/lib/python3.11/site-packages/horovod/tensorflow/\
mpi_lib.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN10tensorflow8OpKernel11TraceStringERKNS_15OpKernelContext
""",
    "no-compiler": """\
  CMake Error at CMakeLists.txt:17 (project):
    No CMAKE_CXX_COMPILER could be found.

    Tell CMake where to find the compiler by setting either the environment
""",
    "no-make": """\
  CMake Error: CMake was unable to find a build program corresponding to "Unix Makefiles".
  CMAKE_MAKE_PROGRAM is not set.  You probably need to select a different build tool.
  CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage
""",
    "no-cmake": """\
  Could not find a recent CMake to build Horovod. Attempting to install CMake 3.13 to a temporary location via pip.
  RuntimeError: Failed to install temporary CMake. Please update your CMake to 3.13+ or set HOROVOD_CMAKE appropriately.
""",
    "no-network": """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(': Failed to establish \
a new connection: [Errno -3] Temporary failure in name resolution')': /simple/horovod/
ERROR: Could not find a version that satisfies the requirement horovod==0.28.1 (from versions: none)
ERROR: No matching distribution found for horovod==0.28.1
""",
    "build-packages": """\
  pip._vendor.pyproject_hooks._impl.BackendUnavailable: Cannot import 'setuptools.build_meta'
""",
    "xla-headers": """\
  [ 91%] Building CXX object horovod/tensorflow/CMakeFiles/tensorflow.dir/xla_mpi_ops.cc.o
  In file included from /s/horovod/tensorflow/xla_mpi_ops.cc:33:
  /env/tensorflow/include/tsl/platform/hash.h:21:10: fatal error: highwayhash/sip_hash.h: No such file or directory
  make[2]: *** [horovod/tensorflow/CMakeFiles/tensorflow.dir/build.make:692: xla_mpi_ops.cc.o] Error 1
""",
    "no-memory": """\
  c++: fatal error: Killed signal terminated program cc1plus
  compilation terminated.
  make[2]: *** [mpi_ops.cc.o] Error 1
""",
    "no-space": "  /tmp/ccXYZ.s: Fatal error: can't write 4096 bytes to section .text: 'No space left on device'\n",
    "cxx17": "  /env/tensorflow/include/tsl/x.h:3:2: error: #error This file requires C++17 or newer\n",
    "no-libmpi": "OSError: libmpi.so.40: cannot open shared object file: No such file or directory\n",
    "runtime-package": "ModuleNotFoundError: No module named 'psutil'\n",
    "root": "mpirun has detected an attempt to run as root.\n",
    "no-home": "[vm:06010] Error: Unable to get the user home directory\n",
    "no-nccl": "  CMake Error:\n    Could NOT find NCCL (missing: NCCL_INCLUDE_DIR NCCL_LIBRARY)\n",
}


@pytest.mark.parametrize("name", LOGS)
def test_known_causes_are_told_from_real_logs(name):
    cause = diagnose(LOGS[name])
    assert cause.name == name
    assert cause.fix
    assert cause.error_line in " ".join(LOGS[name].split())
    assert cause.error_line


def test_the_table_names_each_cause_once():
    names = [known.name for known in KNOWN_CAUSES]
    assert len(names) == len(set(names))


def test_the_compilers_first_error_is_shown():
    cause = diagnose(LOGS["xla-headers"])
    assert "hash.h:21:10: fatal error: highwayhash/sip_hash.h" in cause.error_line


def test_an_unknown_failure_still_shows_its_first_error():
    log = "checking\n/s/a.cc:12:3: error: 'foo' was not declared\n/s/a.cc:13:3: error: 'bar' was not declared\n"
    assert diagnose(log).name == "unknown"
    assert first_error_line(log) == "/s/a.cc:12:3: error: 'foo' was not declared"


def test_optional_packages_that_cmake_misses_are_not_the_error():
    log = "Could NOT find NVTX (missing: NVTX_INCLUDE_DIR)\nCould NOT find CCache\nCMake Error: something else\n"
    assert "something else" in first_error_line(log)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_plain_progress_is_a_line_every_20_seconds():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    progress.begin("compiling")
    for second in range(1, 46):
        clock.now = float(second)
        progress.note("  [ 45%] Building CXX object horovod/tensorflow/CMakeFiles/tensorflow.dir/mpi_ops.cc.o")
        progress.tick()
    progress.end()
    assert stream.getvalue().splitlines() == [
        "compiling ...",
        "compiling ...  20 s   45 %  mpi_ops.cc",
        "compiling ...  40 s   45 %  mpi_ops.cc",
        "compiling: done in 45 s",
    ]


def test_output_and_exit_code_of_a_command_are_kept(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    assert run_logged(command, log=log, environ=os.environ, cwd=None, progress=Progress(io.StringIO())) == 3
    assert "hello" in log.read_text()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_compilers_and_leaves_no_scratch(tmp_path, number):
    script = f"""
import os, signal, sys, tempfile
from pathlib import Path
from hvdtrain.doctor.progress import Progress, run_logged
from hvdtrain.signals import interruptible
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
with interruptible(), tempfile.TemporaryDirectory(dir={str(tmp_path)!r}, prefix="build-"):
    run_logged(["sh", "-c", '"$0" -c "$1" "$2" & wait', sys.executable, child, {str(tmp_path / "pid")!r}],
               log=Path({str(tmp_path / "log")!r}), environ=os.environ, cwd=None, progress=Progress())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    pid_file = tmp_path / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the child")
    assert is_running(pid_file.read_text())
    process.send_signal(number)
    process.communicate(timeout=20)
    wait_for(lambda: not is_running(pid_file.read_text()), "its end")
    assert not list(tmp_path.glob("build-*"))


@pytest.mark.usefixtures("require_horovod")
def test_a_second_build_does_nothing(tmp_path):
    if "+tf" not in importlib.metadata.version("horovod"):
        missing("horovod", "the Horovod installed here is not from hvdtrain build-horovod")
    # No Horovod in the cache shows that nothing but the installed one is looked at.
    shutil.copytree(cache_root(os.environ) / "native", tmp_path / "hvdtrain" / "native")
    result = subprocess.run(
        [sys.executable, "-m", "hvdtrain", "build-horovod"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "is in place" in result.stderr
    assert not list(tmp_path.rglob("*.whl"))
