"""Start 2 ranks for real: where they land, whether MPI and Horovod see one world, whether an allreduce adds up."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hvdtrain.doctor.mpi import Mpi
from hvdtrain.doctor.probe import STACK
from hvdtrain.doctor.run_probe import ProbeResult, run_probe
from hvdtrain.launch import LAUNCHERS, LaunchRequest

NUM_RANKS = 2
EXPECTED_SUM = sum(range(1, NUM_RANKS + 1))


@dataclass(frozen=True)
class RankFacts:
    """One rank: its place, the software it runs on, and what mpi4py and Horovod reported from inside it."""

    rank: int
    size: int
    host: str
    cores: tuple[int, ...]
    mpi_world: Mapping[str, Any]
    allreduce: Mapping[str, Any]
    stack: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RankStart:
    """A start of 2 ranks: the command line, the ranks that reported, and how it ended (empty when well)."""

    command: str
    ranks: tuple[RankFacts, ...]
    ended: str
    output: str

    @property
    def adds_up(self) -> bool:
        """Whether every rank holds the right sum after a Horovod allreduce."""
        sums = [rank.allreduce.get("sum") for rank in self.ranks]
        return not self.ended and sums == [EXPECTED_SUM] * NUM_RANKS

    @property
    def complaint(self) -> str:
        """The first thing that went wrong, with what was printed; empty when the sum is right."""
        if self.adds_up:
            return ""
        errors = [str(rank.allreduce["error"]) for rank in self.ranks if "error" in rank.allreduce]
        return "\n".join([*errors[:1], self.output, self.ended]).strip() or "the ranks do not form one world"


def start_ranks(mpi: Mpi, *, environ: Mapping[str, str], num_cores: int, timeout_s: float = 90) -> RankStart:
    """Start 2 ranks the way `hvdtrain run` does and return what they saw."""
    launcher, additions = launch_line(mpi, num_cores)
    result = run_probe("rank", launcher=launcher, environ={**environ, **additions}, timeout_s=timeout_s)
    return RankStart(
        command=shlex.join(launcher),
        ranks=ranks_of(result),
        ended=result.ended,
        output=result.tail,
    )


def launch_line(mpi: Mpi, num_cores: int) -> tuple[list[str], dict[str, str]]:
    """Return (mpirun with its options, environment additions) for this MPI."""
    if mpi.dialect is None:
        return [mpi.mpirun, "-np", str(NUM_RANKS)], {}
    launcher = LAUNCHERS[mpi.dialect]
    request = LaunchRequest(num_ranks=NUM_RANKS, num_cores=num_cores)
    tokens = [token for setting in launcher.tokens(request) for token in setting.tokens]
    pairs = [token.split("=", 1) for setting in launcher.environment(request) for token in setting.tokens]
    return [mpi.mpirun, *tokens[1:]], {name: value for name, value in pairs}


def ranks_of(result: ProbeResult) -> tuple[RankFacts, ...]:
    """Return the ranks in order; reports of one process belong together by host and process id."""
    by_pid: dict[int, dict[str, dict[str, Any]]] = {}
    for report in result.reports:
        by_pid.setdefault(report["pid"], {})[report["stage"]] = report["facts"]
    missing = {"error": f"no report: the rank {result.ended or 'ended early'}"}
    return tuple(sorted(_ranks(by_pid.values(), missing), key=lambda rank: rank.rank))


def _ranks(processes: Iterable[dict[str, dict[str, Any]]], missing: dict[str, Any]) -> Iterable[RankFacts]:
    for stages in processes:
        place = stages.get("place", {})
        if "rank" not in place:
            continue
        yield RankFacts(
            rank=place["rank"],
            size=place["size"],
            host=place["host"],
            cores=tuple(place["cores"]),
            mpi_world=stages.get("mpi_world", missing),
            allreduce=stages.get("allreduce", missing),
            stack={name: stages[name] for name, _ in STACK if name in stages},
        )


def core_list(cores: tuple[int, ...]) -> str:
    """Return cores the way taskset writes them.

    >>> core_list((0, 1, 2, 5))
    'cores 0-2,5'
    >>> core_list((3,))
    'core 3'
    """
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{'core' if len(cores) == 1 else 'cores'} {text}"
