"""How the ranks of a job lie on the nodes of a site. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hvdtrain.config import Config
from hvdtrain.facts import Facts
from hvdtrain.sites import Partition, Site


@dataclass(frozen=True)
class Layout:
    """A job's ranks on its nodes.

    Args:
        site: The cluster.
        partition_name: Where the job queues.
        partition: What its nodes are like.
        nodes: How many.
        ranks_per_node: Ranks on each.
        cpus_per_rank: CPUs of each rank, as Slurm counts them.
        gpus_per_node: GPUs of each node that the job asks for.
        launcher: `srun`, `native`, `openmpi4` or `openmpi5`.
    """

    site: Site
    partition_name: str
    partition: Partition
    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int
    launcher: str

    @property
    def num_ranks(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    def facts(self) -> Facts:
        """Return the machine a plan for this layout is made for."""
        return Facts(
            num_cores=self.num_ranks * self.cpus_per_rank,
            mpi=self.launcher,
            mpi_found=f"site {self.site.name}",
            has_horovod=True,
            num_gpus=self.nodes * self.gpus_per_node,
            num_nodes=self.nodes,
        )


def make_layout(config: Config, site: Site) -> Layout:
    """Return where the ranks of a configuration go on a site.

    Raises:
        ConfigError: If the site has no such partition.
    """
    slurm = config.slurm
    name, partition = site.partition(slurm.partition)
    one_process = config.launch.strategy in ("mirrored", "single")
    gpus = slurm.gpus_per_node if slurm.gpus_per_node is not None else _gpus(config, partition)
    ranks_per_node = 1 if one_process else slurm.ranks_per_node or _ranks_per_node(config, gpus)
    is_whole = partition.whole_nodes or slurm.exclusive
    cpus = slurm.cpus_per_rank or (max(1, partition.cores_per_node // ranks_per_node) if is_whole else 1)
    chosen = config.launch.launcher
    launcher = site.launcher if chosen in ("auto", "none") else chosen
    return Layout(
        site=site,
        partition_name=name,
        partition=partition,
        nodes=slurm.nodes,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=cpus,
        gpus_per_node=gpus,
        launcher=site.mpi if launcher == "mpirun" else launcher,
    )


def _ranks_per_node(config: Config, gpus: int) -> int:
    if config.launch.num_ranks is not None:
        return config.launch.num_ranks // config.slurm.nodes
    return max(1, gpus)


def _gpus(config: Config, partition: Partition) -> int:
    """Return the GPUs to ask for where the configuration says nothing: one for each rank, as far as nodes have them."""
    if config.launch.num_ranks is None and config.slurm.ranks_per_node is None:
        return partition.gpus_per_node
    return min(partition.gpus_per_node, config.slurm.ranks_per_node or _ranks_per_node(config, 0))
