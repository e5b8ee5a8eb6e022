"""The command that takes an interactive allocation on a site. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvdtrain.errors import ConfigError
from hvdtrain.sites import Site


@dataclass(frozen=True)
class Wish:
    """What is asked for: partition (None: the default), nodes, ranks per node, CPUs per rank, GPUs per node, time."""

    partition: str | None
    nodes: int
    ranks_per_node: int
    cpus: int
    gpus: int
    minutes: int
    account: str | None


def allocation_command(site: Site, wish: Wish, words: Sequence[str]) -> list[str]:
    """Return the command; without words it opens a shell on the first node.

    Raises:
        ConfigError: If the site has no such partition, or nodes without so many CPUs or GPUs.
    """
    name, partition = site.partition(wish.partition)
    if wish.ranks_per_node * wish.cpus > partition.cores_per_node:
        raise ConfigError(
            f"--cpus: {wish.ranks_per_node} ranks x {wish.cpus} CPUs; nodes of {name} have {partition.cores_per_node}"
        )
    if wish.gpus > partition.gpus_per_node:
        raise ConfigError(f"--gpus: {wish.gpus} per node; nodes of {name} have {partition.gpus_per_node or 'none'}")
    if partition.max_time_min is not None and wish.minutes > partition.max_time_min:
        raise ConfigError(f"--minutes: {wish.minutes}; partition {name} allows {partition.max_time_min}")
    if wish.account is None and site.needs_account:
        raise ConfigError(f"--account: site {site.name} refuses jobs without one; name your allocation")
    if site.scheduler == "pbs":
        chunk = f"{wish.nodes}:ncpus={wish.ranks_per_node * wish.cpus}:mpiprocs={wish.ranks_per_node}"
        chunk += f":ngpus={wish.gpus}" if wish.gpus else ""
        account = ["-A", wish.account] if wish.account else []
        time = f"walltime={wish.minutes // 60:02}:{wish.minutes % 60:02}:00"
        return [
            "qsub",
            "-I",
            "-q",
            name,
            "-l",
            f"select={chunk}",
            "-l",
            time,
            *account,
            *(["--", *words] if words else []),
        ]
    options = [f"--partition={name}"] if partition.is_named else []
    options += [f"--{key}={value}" for key in ("constraint", "qos") if (value := getattr(partition, key))]
    options += [f"--nodes={wish.nodes}", f"--ntasks-per-node={wish.ranks_per_node}", f"--cpus-per-task={wish.cpus}"]
    if wish.gpus:
        options.append(f"--{'gres=gpu:' if site.gpu_option == 'gres' else 'gpus-per-node='}{wish.gpus}")
    options += [f"--time={wish.minutes}", *([f"--account={wish.account}"] if wish.account else [])]
    cpus = f"--cpus-per-task={wish.cpus}"
    shell = list(words) or ["srun", "--nodes=1", "--ntasks=1", cpus, "--overlap", "--pty", "bash", "-l"]
    return ["salloc", *options, *shell]
