"""What this machine is: the only module that probes it, called once by `run` and `submit`.

`render` uses `assumed_facts` instead, so that the same configuration gives the same bytes on any machine.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Facts:
    """The machine as far as a plan depends on it.

    Args:
        num_cores: Cores this process may use; None when unknown, which means one per rank.
        mpi: What starts ranks (`openmpi4`, `openmpi5`; in a Slurm job also `srun`, `native`), or None without a usable
            mpirun.
        mpi_found: What `mpirun --version` said, or why there is none.
        has_horovod: Whether Horovod's TensorFlow library is installed.
        num_gpus: NVIDIA GPUs that are visible.
        num_nodes: Nodes that the ranks are spread over.
    """

    num_cores: int | None
    mpi: str | None
    mpi_found: str
    has_horovod: bool
    num_gpus: int
    num_nodes: int = 1


def assumed_facts() -> Facts:
    """Return the machine a script is rendered for when none is named: Open MPI 5, one core per rank, no GPU."""
    return Facts(num_cores=None, mpi="openmpi5", mpi_found="assumed", has_horovod=True, num_gpus=0)


def gather_facts() -> Facts:
    """Return what this machine has. Takes some tens of milliseconds; TensorFlow is not imported."""
    mpi, found = _mpirun()
    return Facts(
        num_cores=len(os.sched_getaffinity(0)),
        mpi=mpi,
        mpi_found=found,
        has_horovod=_has_horovod(),
        num_gpus=_num_gpus(),
    )


def search_path() -> str:
    """Return PATH with the directory of this Python in front, where a wheel of Open MPI puts its mpirun."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _mpirun() -> tuple[str | None, str]:
    program = shutil.which("mpirun", path=search_path())
    if program is None:
        return None, "no mpirun on PATH"
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{program} --version: {error}"
    return mpi_dialect(result.stdout + result.stderr)


def mpi_dialect(version_text: str) -> tuple[str | None, str]:
    """Return (dialect, first line) of what `mpirun --version` printed; the dialect is None if it is not one of ours.

    >>> mpi_dialect("mpirun (Open MPI) 5.0.11")
    ('openmpi5', 'mpirun (Open MPI) 5.0.11')
    >>> mpi_dialect("HYDRA build details:")
    (None, 'HYDRA build details:')
    """
    first = next((line.strip() for line in version_text.splitlines() if line.strip()), "nothing printed")
    match = re.search(r"Open MPI\) (\d+)\.", version_text)
    if not match:
        return None, first
    return {"4": "openmpi4", "5": "openmpi5"}.get(match.group(1)), first


def _has_horovod() -> bool:
    spec = importlib.util.find_spec("horovod")
    if spec is None or not spec.submodule_search_locations:
        return False
    return any(Path(spec.submodule_search_locations[0], "tensorflow").glob("mpi_lib*.so"))


def _num_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    num_present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if visible is None:
        return num_present
    return min(num_present, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
