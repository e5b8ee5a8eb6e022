"""Open MPI's mpirun, versions 4 and 5, on one machine or inside a Slurm allocation.

The dialects differ where version 5 moved process placement to PRRTE:
https://docs.open-mpi.org/en/v5.0.x/man-openmpi/man1/mpirun.1.html
"""

from __future__ import annotations

from hvdtrain.launch.request import LaunchRequest, Setting

ROOT_REASON = "Open MPI refuses root unless told so; containers run as root, and for others it has no effect"


class OpenMpi5Launcher:
    """mpirun of Open MPI 5."""

    name = "openmpi5"
    title = "Open MPI 5"
    num_ranks_flag = "--np"
    oversubscribe: tuple[str, ...] = ("--map-by", ":OVERSUBSCRIBE")
    on_one_machine = "self,sm"

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return mpirun and its options."""
        settings = [
            Setting(("mpirun", self.num_ranks_flag, str(request.num_ranks)), "start this many ranks"),
            Setting(
                ("--bind-to", "none"),
                "each worker takes its own share of the cores, the same way under every launcher",
            ),
        ]
        if request.hostfile is not None:
            settings.append(Setting(("--hostfile", request.hostfile), "launch.hostfile: its hosts and their slots"))
        elif request.num_nodes > 1:
            settings.append(
                Setting(
                    ("--map-by", f"ppr:{request.num_ranks // request.num_nodes}:node"),
                    "as many ranks on each node; mpirun reads from Slurm which nodes these are",
                )
            )
        elif request.num_ranks > 1:
            settings.append(
                Setting(
                    ("--mca", "btl", self.on_one_machine),
                    "ranks of one machine talk through shared memory, and none of them listens to the network",
                )
            )
        if request.num_ranks > request.num_cores and request.num_nodes == 1 and request.hostfile is None:
            settings.append(
                Setting(
                    self.oversubscribe,
                    f"{request.num_ranks} ranks on {request.num_cores} cores: allow more ranks than slots",
                )
            )
        if request.yields:
            reason = "launch.yield_when_idle"
            if request.yield_when_idle is None:
                reason = "one core per rank: what waits for a message must not spin on the core that computes"
            settings.append(Setting(("--mca", "mpi_yield_when_idle", "1"), reason))
        return settings

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return what mpirun itself reads."""
        settings = [
            Setting(("OMPI_ALLOW_RUN_AS_ROOT=1",), ROOT_REASON),
            Setting(("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",), "the second half of the same switch"),
        ]
        if request.num_nodes > 1:
            settings.append(
                Setting(
                    (f"SRUN_CPUS_PER_TASK={request.num_cores // request.num_nodes}",),
                    "mpirun starts one daemon per node with srun, and all ranks of the node live on the daemon's CPUs",
                )
            )
        return settings


class OpenMpi4Launcher(OpenMpi5Launcher):
    """mpirun of Open MPI 4 (ORTE)."""

    name = "openmpi4"
    title = "Open MPI 4"
    num_ranks_flag = "-np"
    oversubscribe = ("--oversubscribe",)
    on_one_machine = "self,vader"
