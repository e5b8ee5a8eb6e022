"""mpiexec of MPICH and Intel MPI, which both start ranks with Hydra.

https://www.mpich.org/documentation/guides/ and Intel's Developer Reference, "Global Hydra Options". Rendering only was
tried: hvdtrain builds Horovod for Open MPI.
"""

from __future__ import annotations

from hvdtrain.launch.request import LaunchRequest, Setting


class MpichLauncher:
    """mpiexec of MPICH."""

    name = "mpich"
    title = "MPICH (Hydra)"
    program = "mpiexec"

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return mpiexec and its options."""
        settings = [
            Setting((self.program, "-n", str(request.num_ranks)), "start this many ranks"),
            Setting(
                ("-ppn", str(request.num_ranks // request.num_nodes)),
                "as many on each node; Hydra reads from the scheduler which nodes these are",
            ),
        ]
        if request.hostfile is not None:
            settings.append(Setting(("-f", request.hostfile), "launch.hostfile"))
        return [*settings, *self.binding()]

    def binding(self) -> list[Setting]:
        """Return how ranks are kept from being bound."""
        return [Setting(("-bind-to", "none"), "each worker takes its own share of the cores")]

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return nothing."""
        return []


class IntelMpiLauncher(MpichLauncher):
    """mpirun of Intel MPI."""

    name = "intelmpi"
    title = "Intel MPI (Hydra)"
    program = "mpirun"

    def binding(self) -> list[Setting]:
        """Return nothing: a variable says it."""
        return []

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return what Intel MPI reads."""
        return [Setting(("I_MPI_PIN=0",), "each worker takes its own share of the cores")]
