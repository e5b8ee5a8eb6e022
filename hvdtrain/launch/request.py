"""What a launch dialect is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Expansion(str):
    """A token that is shell text, written by us and with its own quotes, such as `"$run_dir"`."""


@dataclass(frozen=True)
class Setting:
    """One token group of a command line, or one NAME=VALUE, with the reason for it."""

    tokens: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class LaunchRequest:
    """The processes to start.

    Args:
        num_ranks: Processes to start.
        num_cores: Cores the processes share, on all nodes.
        num_nodes: Nodes they are spread over, as many on each.
        srun_mpi: What srun offers to the ranks for finding each other.
        cpu_bind: How srun binds ranks to CPUs.
        gpu_bind: How srun binds ranks to GPUs; None leaves it to the site.
        hostfile: File that lists the hosts, on clusters without a scheduler.
        yield_when_idle: Whether ranks that wait give up their core; None where the number of cores decides.
    """

    num_ranks: int
    num_cores: int
    num_nodes: int = 1
    srun_mpi: str = "pmix"
    cpu_bind: str = "none"
    gpu_bind: str | None = None
    hostfile: str | None = None
    yield_when_idle: bool | None = None

    @property
    def yields(self) -> bool:
        """Whether ranks that wait for a message give up their core."""
        return self.fills_cores if self.yield_when_idle is None else self.yield_when_idle

    @property
    def fills_cores(self) -> bool:
        """Whether a rank has no second core, so that whoever waits by spinning takes the one that computes."""
        return self.num_cores < 2 * self.num_ranks


class Launcher(Protocol):
    """A way to start ranks: a name, words for people, and the tokens in front of the worker's command."""

    name: str
    title: str

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return the launcher's part of the command line; empty where ranks start without one."""
        ...

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return the NAME=VALUE pairs the launcher itself needs."""
        ...
