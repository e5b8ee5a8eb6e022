"""Four Slurm nodes on this machine: slurmctld, one slurmd per node and munged, all below one folder.

    python -m tests.cluster up [FOLDER]      prints the line that points your shell at it
    python -m tests.cluster down [FOLDER]

The nodes share the machine: its cores, its host name and its files. Debian: apt-get install slurmctld slurmd
slurm-client munge libpmix-dev (the last for `srun --mpi=pmix`).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sinfo", "munged")
NUM_NODES = 4
CPUS_PER_NODE = 2
START_S = 60.0

CONF = """\
ClusterName=hvdtrain
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
ReturnToService=2
SlurmdTimeout=20
TmpFS={folder}/tmp/%n
MpiDefault=none
NodeName=node[1-{num_nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port}-{last_port} \
CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=node[1-{num_nodes}] Default=YES MaxTime=60 PriorityTier=10 GraceTime=20 State=UP
PartitionName=urgent Nodes=node[1-{num_nodes}] MaxTime=60 PriorityTier=20 State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """One Slurm below one folder.

    Args:
        folder: Configuration, state, logs and sockets. Its path must be short: a socket's path has 107 characters.
    """

    folder: Path

    @property
    def conf(self) -> Path:
        """The configuration; `SLURM_CONF` points at it."""
        return self.folder / "slurm.conf"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return [f"node{i + 1}" for i in range(NUM_NODES)]

    def environment(self) -> dict[str, str]:
        """Return what a process needs to talk to this Slurm."""
        return {"SLURM_CONF": str(self.conf)}

    def up(self) -> None:
        """Start everything and wait until all nodes are idle.

        Raises:
            RuntimeError: If it does not come up, with the end of the log that says why.
        """
        for name in ("munge", "state", "log", *(f"{kind}/{node}" for kind in ("spool", "tmp") for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o711)
        self._write_conf()
        self.start_munge()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self.wait_for_nodes()

    def down(self) -> None:
        """Stop what `up` started, and what its jobs left."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.command("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}", timeout=10)
            self.command("scancel", f"--user={getpass.getuser()}", timeout=10)
        for place in (*self.folder.glob("*.pid"), self.folder / "munge" / "pid"):
            stop(place, patience_s=2.0)
        for pid in self._step_daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _step_daemons(self) -> list[int]:
        """Return the processes that serve steps of this cluster's jobs; they outlive their slurmd."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (place / "comm").read_text().startswith("slurmstepd") and str(self.folder) in (
                    place / "environ"
                ).read_text(errors="replace"):
                    found.append(int(place.name))
        return found

    def _write_conf(self) -> None:
        controller_port, first_port = free_ports(1)[0], consecutive_ports(NUM_NODES)
        self.conf.write_text(
            CONF.format(
                host=socket.gethostname(),
                user=getpass.getuser(),
                folder=self.folder,
                controller_port=controller_port,
                first_port=first_port,
                last_port=first_port + NUM_NODES - 1,
                num_nodes=NUM_NODES,
                cpus=CPUS_PER_NODE,
            )
        )

    def start_munge(self) -> None:
        """Start munged with a key of its own."""
        munge = self.folder / "munge"
        key = munge / "key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(1024))
            key.chmod(0o600)
        options = [f"--{name}={munge / place}" for name, place in (("key-file", "key"), ("pid-file", "pid"))]
        options += [f"--socket={munge / 'socket'}", f"--log-file={munge / 'log'}", f"--seed-file={munge / 'seed'}"]
        subprocess.run(["munged", "--force", *options], check=True, stderr=subprocess.DEVNULL)

    def start_controller(self) -> None:
        """Start slurmctld."""
        self.command("slurmctld", "-R", check=True)

    def stop_controller(self) -> None:
        """Stop slurmctld, as a failure of its machine would."""
        stop(self.folder / "slurmctld.pid")

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node, on a share of this machine's cores: its jobs inherit that."""
        cores = sorted(os.sched_getaffinity(0))
        own = cores[self.nodes.index(node) :: NUM_NODES] or [cores[self.nodes.index(node) % len(cores)]]
        self.command("taskset", "--cpu-list", ",".join(map(str, own)), "slurmd", "-N", node, check=True)

    def stop_node(self, node: str) -> None:
        """Stop the slurmd of a node; its jobs go on until they are missed."""
        stop(self.folder / f"{node}.pid")

    def wait_for_nodes(self) -> None:
        """Return when all nodes are idle.

        Raises:
            RuntimeError: If they are not in time.
        """
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            states = self.command("sinfo", "--noheader", "--Node", "--format=%N %t").stdout.split("\n")
            idle = {line.split()[0] for line in states if line.endswith(" idle")}
            if idle == set(self.nodes):
                return
            time.sleep(0.3)
        logs = "\n".join(log.read_text(errors="replace")[-1500:] for log in (self.folder / "log").glob("*.log"))
        raise RuntimeError(f"Slurm did not come up in {START_S:g} s: {states}\n{logs}")

    def command(self, *words: str, timeout: float = 60, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's programs."""
        environ = {**os.environ, **self.environment()}
        return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=timeout, check=check)


def missing_programs() -> list[str]:
    """Return what of Slurm is not installed."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def stop(pid_file: Path, patience_s: float = 10.0) -> None:
    """Terminate the process that a file names, and kill it if it does not end."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    end = time.monotonic() + patience_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def consecutive_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    while True:
        first = free_ports(1)[0]
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
