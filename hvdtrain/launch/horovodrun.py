"""Horovod's own launcher with Gloo, on request only: it needs ssh, and its environment stands on command lines.

https://horovod.readthedocs.io/en/stable/running_include.html
"""

from __future__ import annotations

from hvdtrain.launch.request import Expansion, LaunchRequest, Setting

NODES = 'scontrol show hostnames "$SLURM_JOB_NODELIST"'
HOSTS = Expansion(f'"$({NODES} | sed "s/$/:$SLURM_NTASKS_PER_NODE/" | paste -sd,)"')


class HorovodrunLauncher:
    """horovodrun --gloo."""

    name = "horovodrun"
    title = "horovodrun with Gloo"

    def tokens(self, request: LaunchRequest) -> list[Setting]:
        """Return horovodrun and its options."""
        settings = [
            Setting(("horovodrun", "--gloo"), "without MPI: it knows no Open MPI 5"),
            Setting(("-np", str(request.num_ranks)), "start this many ranks"),
            Setting(("--start-timeout", "300"), "seconds; 30 are short for TensorFlow on a shared file system"),
        ]
        if request.hostfile is not None:
            settings.append(Setting(("--hostfile", request.hostfile), "launch.hostfile"))
        elif request.num_nodes > 1:
            settings.append(Setting(("-H", HOSTS), "the nodes of the allocation, looked up when the job runs"))
        return settings

    def environment(self, request: LaunchRequest) -> list[Setting]:
        """Return nothing."""
        return []
