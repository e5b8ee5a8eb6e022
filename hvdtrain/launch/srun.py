"""Slurm's srun inside an allocation: with PMIx for ranks that talk MPI, or alone for ranks that meet through Gloo.

https://slurm.schedmd.com/mpi_guide.html
"""

from __future__ import annotations

from hvdtrain.launch.request import LaunchRequest, Setting


class SrunLauncher:
    """srun with PMIx; Horovod talks MPI."""

    name = "srun"
    title = "srun"

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return srun and its options."""
        settings = [
            Setting(("srun", f"--nodes={request.num_nodes}"), "one step on the whole allocation"),
            Setting((f"--ntasks={request.num_ranks}",), "start this many ranks"),
            Setting((f"--ntasks-per-node={request.num_ranks // request.num_nodes}",), "as many on each node"),
            Setting(
                (f"--cpus-per-task={max(1, request.num_cores // request.num_ranks)}",),
                "said again: since Slurm 22.05 a step does not inherit it from the job",
            ),
            Setting((f"--mpi={self.mpi(request)}",), self.mpi_reason),
            Setting((f"--cpu-bind={request.cpu_bind}",), "each worker takes its own share of the cores by itself"),
        ]
        if request.gpu_bind is not None:
            settings.append(Setting((f"--gpu-bind={request.gpu_bind}",), "slurm.gpu_bind"))
        return [
            *settings,
            Setting(("--kill-on-bad-exit=1",), "when one rank fails the others would wait for it for ever"),
            Setting(("--wait=60",), "seconds the others get to end after the first one has ended"),
            Setting(("--unbuffered",), "a line is in the log when it was printed"),
        ]

    mpi_reason = "how ranks find each other; it must be what the MPI was built with: srun --mpi=list"

    def mpi(self, request: LaunchRequest) -> str:
        """Return the kind of process management that srun offers to the ranks."""
        return request.srun_mpi

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return what Open MPI inside the ranks reads."""
        settings = []
        if request.yields:
            reason = "one core per rank: what waits for a message must not spin on the core that computes"
            settings.append(Setting(("OMPI_MCA_mpi_yield_when_idle=1",), reason))
        return settings


class NativeLauncher(SrunLauncher):
    """srun alone: rank 0 opens a place to meet, and Horovod talks Gloo. No MPI and no ssh."""

    name = "native"
    title = "srun and Gloo, without MPI"
    mpi_reason = "no MPI: rank 0 opens a place to meet, whose address stands in the run directory"

    def mpi(self, request: LaunchRequest) -> str:
        """Return `none`."""
        return "none"

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return what tells the ranks to meet through Gloo."""
        return [Setting(("HVDTRAIN_MEET=gloo",), "launch.launcher native: ranks meet through Gloo")]
