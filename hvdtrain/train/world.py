"""Waking up: who this process is, checked against what was planned, and the Comm to talk through."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.launch.rank import RankInfo, rank_info
from hvdtrain.train import devices, meet
from hvdtrain.train.loading import load_keras


@dataclass(frozen=True)
class World:
    """The ranks this process trains with.

    Args:
        rank: 0 .. size - 1.
        size: Ranks in all.
        local_rank: Place among the ranks of this node.
        local_size: Ranks on this node.
        host: This node's name.
        cores: Cores this process is bound to.
        gpu: Index of its GPU, or None.
        reduction: How gradients travel, in words.
        comm: The collectives.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    cores: tuple[int, ...]
    gpu: int | None
    reduction: str
    comm: Any = field(repr=False)

    @property
    def is_rank0(self) -> bool:
        """Whether this is the rank that writes and talks."""
        return self.rank == 0

    @property
    def verbose(self) -> Any:
        """Keras's `verbose`: a progress bar on rank 0, silence on the others."""
        return "auto" if self.is_rank0 else 0


def wake_up(
    environ: Mapping[str, str],
    *,
    num_ranks: int | None = None,
    is_deterministic: bool = False,
    meet_in: Path | None = None,
    cores_alone: int | None = None,
) -> World:
    """Bind cores, join Horovod's world if a launcher started several ranks, pin the GPU, and check that all agree.

    Args:
        environ: The process environment.
        num_ranks: What the plan says; None takes HVDTRAIN_NUM_RANKS, or trusts the launcher.
        is_deterministic: Compute with one thread whatever the environment says, so that no sum depends on it.
        meet_in: Folder that all ranks share, in which those that meet through Gloo find each other.
        cores_alone: Cores a single process is bound to; None leaves it all it may use.

    Raises:
        EnvironmentNotFitError: If the world is not the one that was planned or that the launcher states.
    """
    info = rank_info(environ)
    expected = num_ranks if num_ranks is not None else _expected(environ)
    check_launcher(info, expected)
    if info.size == 1 and cores_alone is not None:
        devices.bind_first(cores_alone)
    cores = devices.bind_cores(info.local_rank or 0, info.local_size or info.size, environ)
    _load_keras()
    comm = _horovod(info, environ, meet_in) if info.size > 1 else _solo()
    check_world(info, comm.rank, comm.size)
    _let_layers_join(comm)
    devices.set_threads(*((1, {}) if is_deterministic else (len(cores), environ)))
    # A single process keeps all GPUs: MirroredStrategy uses them together.
    gpu = devices.claim_gpu(comm.local_rank, comm.local_size) if info.size > 1 else None
    reduction = _join_node(comm, cores, environ, has_gpu=gpu is not None) if info.size > 1 else "one process"
    return World(
        rank=comm.rank,
        size=comm.size,
        local_rank=comm.local_rank,
        local_size=comm.local_size,
        host=socket.gethostname(),
        cores=tuple(cores),
        gpu=gpu,
        reduction=reduction,
        comm=comm,
    )


def _expected(environ: Mapping[str, str]) -> int | None:
    text = environ.get("HVDTRAIN_NUM_RANKS", "")
    return int(text) if text.isdigit() else None


def check_launcher(info: RankInfo, expected: int | None) -> None:
    """Compare the launcher's number of ranks with the planned one.

    Raises:
        EnvironmentNotFitError: If they differ; N processes that each believe to be alone would train N models.
    """
    if expected is None or info.size == expected:
        return
    if info.launcher == "none":
        raise EnvironmentNotFitError(
            f"{expected} ranks were planned, but this process was started alone, without a launcher that says so: "
            "each copy would train a model of its own. Start it with `hvdtrain run`, or the run's job.sh; under srun "
            "use --mpi=pmix"
        )
    raise EnvironmentNotFitError(
        f"{expected} ranks were planned, but {info.launcher} started {info.size}; "
        f"start {expected}, or make a new plan with --ranks {info.size}"
    )


def check_world(info: RankInfo, rank: int, size: int) -> None:
    """Compare the launcher's numbers with Horovod's.

    Raises:
        EnvironmentNotFitError: If they differ, which means that Horovod's MPI is not the launcher's.
    """
    if (info.rank, info.size) != (rank, size):
        raise EnvironmentNotFitError(
            f"{info.launcher} says rank {info.rank} of {info.size}, Horovod says rank {rank} of {size}: Horovod was "
            "built for another MPI than the one that started it. Compare them with `hvdtrain doctor`, then "
            "`hvdtrain build-horovod --force` with the MPI you launch with"
        )


def _load_keras() -> None:
    try:
        load_keras()
    except ImportError as error:
        raise EnvironmentNotFitError(
            f"TensorFlow or Keras does not import: {error}; fix: pip install 'hvdtrain[train]', and see hvdtrain doctor"
        ) from error


def _solo() -> Any:
    from hvdtrain.train.comm import SoloComm

    return SoloComm()


def _horovod(info: RankInfo, environ: Mapping[str, str], meet_in: Path | None) -> Any:
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise EnvironmentNotFitError(
            f"{info.size} ranks were started, but Horovod does not import: {error}; fix: hvdtrain build-horovod"
        ) from error
    from hvdtrain.train.comm import HorovodComm

    before = devices.threads()
    if environ.get("HVDTRAIN_MEET") == "gloo":
        meet.with_gloo(info, environ, meet_in or Path.cwd(), hvd.init)
    else:
        meet.find_wheel_of_mpi(info, environ)
        hvd.init()
    comm = HorovodComm(hvd)
    comm.threads = devices.threads() - before
    return comm


def _let_layers_join(comm: Any) -> None:
    from hvdtrain.train.comm import join

    join(comm)


def _join_node(comm: Any, cores: Sequence[int], environ: Mapping[str, str], *, has_gpu: bool) -> str:
    """Let gradients go through shared memory if all ranks can; return how they travel."""
    from hvdtrain.train import node_mean

    comm.node_mean, reason = node_mean.join(comm, cores, environ, has_gpu=has_gpu)
    devices.step_back(comm.threads, only_when_idle=comm.node_mean is not None)
    return f"Horovod: {reason}" if reason else "shared memory"
