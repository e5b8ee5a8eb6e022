"""A first site profile from what sinfo says about a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from hvdtrain.config_types import RUN_NAME
from hvdtrain.errors import ConfigError, EnvironmentNotFitError
from hvdtrain.schedulers.programs import ask

FORMAT = "%P|%D|%c|%m|%G|%l|%h"


def draft_site(name: str) -> str:
    """Return the text of a site profile for the Slurm of this machine.

    Raises:
        ConfigError: If the name cannot be one.
        EnvironmentNotFitError: If there is no Slurm here, or it has no partition.
    """
    if not re.match(RUN_NAME, name):
        raise ConfigError(f"a site's name has letters, digits, '.', '_' and '-'; got {name!r}")
    partitions = parse_sinfo(ask("sinfo", "--noheader", f"--format={FORMAT}"))
    if not partitions:
        raise EnvironmentNotFitError("sinfo shows no partition")
    kinds = ask("srun", "--mpi=list")
    mpi = "pmix" if "pmix" in kinds else "pmi2" if "pmi2" in kinds else "none"
    default = next((one for one, is_default in partitions if is_default), next(iter(partitions))[0])
    lines = [
        "# Drafted from sinfo; read it and correct it. CHECK marks what sinfo does not say.",
        f'name: "{name}"',
        f'description: "{name}"   # CHECK',
        "checked: drafted from sinfo, not tried",
        f'default_partition: "{default}"',
        f"launcher: {'srun' if mpi == 'pmix' else 'native'}   # CHECK: srun (PMIx), mpirun, or native (no MPI)",
        "mpi: openmpi5   # CHECK: openmpi4 or openmpi5, what Horovod is built with",
        f"srun_mpi: {mpi}",
        "shared: []   # CHECK: where shared file systems are mounted, such as [/scratch]; empty: everything is shared",
        "needs_account: false   # CHECK",
        yaml.safe_dump({"partitions": {one: shape for (one, _), shape in partitions.items()}}, sort_keys=False),
    ]
    return "\n".join(lines)


def parse_sinfo(text: str) -> dict[tuple[str, bool], dict[str, object]]:
    """Return the shape of each partition by (name, whether it is the default).

    A partition with several kinds of node has several lines; the smallest numbers count, so that a job fits each node.
    """
    found: dict[tuple[str, bool], dict[str, object]] = {}
    for name, nodes, cpus, memory, gres, limit, oversubscribe in _lines(text):
        key = (name.rstrip("*"), name.endswith("*"))
        shape: dict[str, object] = {
            "nodes": nodes,
            "cores_per_node": cpus,
            "memory_gb": max(1, memory // 1024),
            "whole_nodes": oversubscribe == "EXCLUSIVE",
        }
        kinds = re.findall(r"gpu(?::([^:,(]+))?:(\d+)", gres)
        if kinds:
            shape["gpus_per_node"] = sum(int(count) for _, count in kinds)
            shape["gpu_types"] = sorted({kind for kind, _ in kinds if kind})
        minutes = minutes_of(limit)
        if minutes is not None:
            shape["max_time_min"] = minutes
        before = found.get(key)
        if before is not None:
            shape["nodes"] = int(str(before["nodes"])) + nodes
            for number in ("cores_per_node", "memory_gb"):
                shape[number] = min(int(str(before[number])), int(str(shape[number])))
            shape |= _gpus_of_both(before, shape)
        found[key] = shape
    return found


def _gpus_of_both(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """Return GPUs that a job finds on nodes of either kind."""
    counts = [int(str(shape.get("gpus_per_node", 0))) for shape in (one, other)]
    kinds = [shape.get("gpu_types", []) for shape in (one, other)]
    names = sorted({str(name) for kind in kinds if isinstance(kind, list) for name in kind})
    return {"gpus_per_node": min(counts), "gpu_types": names} if any(counts) else {}


def _lines(text: str) -> Iterator[tuple[str, int, int, int, str, str, str]]:
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) == 7:
            name, nodes, cpus, memory, gres, limit, oversubscribe = parts
            yield name, int(nodes), _number(cpus), _number(memory), gres, limit, oversubscribe


def _number(text: str) -> int:
    return int(text.rstrip("+"))


def minutes_of(limit: str) -> int | None:
    """Return a time limit of Slurm in minutes; None where there is none.

    >>> minutes_of("2-00:00:00"), minutes_of("1:30:00"), minutes_of("30:00"), minutes_of("infinite")
    (2880, 90, 30, None)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes
