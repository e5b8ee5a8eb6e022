"""Who am I? The rank of this process, read from whatever started it.

Pure: the environment is an argument. The first family whose rank variable is set wins; a family that is
half there is an error, because the silent fallback to "rank 0 of 1" trains N separate models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hvdtrain.errors import EnvironmentNotFitError


@dataclass(frozen=True)
class RankInfo:
    """The place of one process in its world, as its launcher states it.

    Args:
        rank: 0 .. size - 1.
        size: Processes in all.
        local_rank: Place among the processes of this node; None where the launcher does not say.
        local_size: Processes on this node; None where the launcher does not say.
        launcher: The family of variables that said so; `none` for a process started by itself.
    """

    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    launcher: str


@dataclass(frozen=True)
class RankVariables:
    """The names under which one launcher states rank, size, local rank and local size."""

    launcher: str
    rank: str
    size: str
    local_rank: str
    local_size: str


# Horovod's own launchers come first: under `horovodrun --gloo` inside an allocation the others are set as well.
FAMILIES = (
    RankVariables("horovodrun", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    RankVariables(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    RankVariables("MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    RankVariables("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)


def rank_info(environ: Mapping[str, str]) -> RankInfo:
    """Return what the launcher says about this process.

    Raises:
        EnvironmentNotFitError: If a variable is missing beside its rank, is no number, or the numbers contradict.

    >>> rank_info({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}).rank
    1
    >>> rank_info({}).launcher
    'none'
    """
    for names in FAMILIES:
        if names.rank in environ and not _is_batch_shell(names, environ):
            return _read(names, environ)
    return RankInfo(rank=0, size=1, local_rank=0, local_size=1, launcher="none")


def _is_batch_shell(names: RankVariables, environ: Mapping[str, str]) -> bool:
    """Slurm sets SLURM_PROCID=0 in the batch script as well, where no step has been started by srun."""
    return names.launcher == "srun" and names.size not in environ


def _read(names: RankVariables, environ: Mapping[str, str]) -> RankInfo:
    rank = _number(names.rank, names, environ)
    size = _number(names.size, names, environ)
    if not 0 <= rank < size:
        raise EnvironmentNotFitError(
            f"{names.launcher} says {names.rank}={rank} and {names.size}={size}; a rank is 0 to size - 1"
        )
    return RankInfo(
        rank=rank,
        size=size,
        local_rank=_local_rank(names, environ),
        local_size=_local_size(names, environ),
        launcher=names.launcher,
    )


def _number(name: str, names: RankVariables, environ: Mapping[str, str]) -> int:
    text = environ.get(name)
    if text is None:
        raise EnvironmentNotFitError(
            f"{names.rank} is set but {name} is not, so the number of ranks is unknown; "
            f"start the ranks with mpirun, srun or horovodrun, or unset {names.rank}"
        )
    if not text.isascii() or not text.isdigit():
        raise EnvironmentNotFitError(f"{name} must be a whole number; got {text!r}")
    return int(text)


def _local_rank(names: RankVariables, environ: Mapping[str, str]) -> int | None:
    if names.local_rank in environ:
        return _optional_number(names.local_rank, environ)
    return _optional_number("SLURM_LOCALID", environ)  # srun --mpi=pmi2 speaks MPICH's words, but for this one


def _local_size(names: RankVariables, environ: Mapping[str, str]) -> int | None:
    if names.launcher != "srun" and (names.local_size in environ or "SLURM_LOCALID" not in environ):
        return _optional_number(names.local_size, environ)
    names = FAMILIES[-1]
    per_node, node = tasks_per_node(environ.get(names.local_size, "")), environ.get("SLURM_NODEID", "")
    return per_node[int(node)] if node.isdigit() and int(node) < len(per_node) else None


def tasks_per_node(text: str) -> list[int]:
    """Return Slurm's tasks per node as one number for each node.

    >>> tasks_per_node("2(x3),1")
    [2, 2, 2, 1]
    """
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def _optional_number(name: str, environ: Mapping[str, str]) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
