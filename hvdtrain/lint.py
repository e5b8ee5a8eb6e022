"""What is wrong with a job before it is submitted: what would pend for ever, or waste the allocation. Pure."""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hvdtrain.config import Config
from hvdtrain.errors import Problem
from hvdtrain.launch.container import image_complaint
from hvdtrain.schedulers.layout import Layout

UNITS = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}


@dataclass(frozen=True)
class Finding:
    """One thing about a job; an error is not submitted."""

    problem: Problem
    is_error: bool = True


def findings(config: Config, layout: Layout, *, run_folder: str) -> Iterator[Finding]:
    """Yield everything that is wrong or doubtful about a job on its site.

    Args:
        config: The configuration.
        layout: Its ranks on the site's nodes.
        run_folder: Absolute path of the folder in which run directories are made.
    """
    yield from _limits(config, layout)
    yield from _one_process(config, layout)
    yield from _cpus_and_memory(config, layout)
    yield from _gpus(config, layout)
    yield from _stopping(config, layout)
    yield from _files(layout, run_folder)
    yield from _container(config, layout)
    if layout.site.scheduler != "slurm" and layout.launcher in ("srun", "native"):
        yield _error("launch.launcher", f"{layout.launcher} is Slurm's; under {layout.site.scheduler} use mpirun")
    if layout.site.needs_account and config.slurm.account is None:
        yield _error("slurm.account", f"site {layout.site.name} refuses jobs without one; name your allocation")


def _error(key: str, message: str) -> Finding:
    return Finding(Problem(message, key))


def _warning(key: str, message: str) -> Finding:
    return Finding(Problem(message, key), is_error=False)


def _one_process(config: Config, layout: Layout) -> Iterator[Finding]:
    if config.launch.strategy in ("mirrored", "single") and layout.nodes > 1:
        yield _error(
            "slurm.nodes", f"strategy {config.launch.strategy!r} is one process on one node; got {layout.nodes}"
        )


def _limits(config: Config, layout: Layout) -> Iterator[Finding]:
    name, partition = layout.partition_name, layout.partition
    limit = partition.max_time_min
    if limit is not None and config.slurm.time_limit_min > limit:
        yield _error(
            "slurm.time_limit_min",
            f"{config.slurm.time_limit_min} min, but partition {name} allows {limit}; the job would pend for ever. "
            f"Ask for {limit} or less: it is stopped in time, saved and queued again",
        )
    most = min(partition.nodes, partition.max_nodes or partition.nodes)
    if layout.nodes > most:
        yield _error("slurm.nodes", f"{layout.nodes} nodes, but a job in partition {name} gets at most {most}")


def _cpus_and_memory(config: Config, layout: Layout) -> Iterator[Finding]:
    name, partition = layout.partition_name, layout.partition
    cpus = layout.ranks_per_node * layout.cpus_per_rank
    if cpus > partition.cores_per_node:
        yield _error(
            "slurm.cpus_per_rank",
            f"{layout.ranks_per_node} ranks x {layout.cpus_per_rank} CPUs are {cpus} on each node, but nodes of "
            f"partition {name} have {partition.cores_per_node}",
        )
    memory = memory_gb(config.slurm.memory)
    if memory is not None and partition.memory_gb is not None and memory > partition.memory_gb:
        yield _error(
            "slurm.memory",
            f"{config.slurm.memory} per node, but nodes of partition {name} have {partition.memory_gb:g}G",
        )


def memory_gb(text: str | None) -> float | None:
    """Return an amount of memory as Slurm writes it, in gigabytes; a bare number is megabytes.

    >>> memory_gb("512M"), memory_gb("2048"), memory_gb(None)
    (0.5, 2.0, None)
    """
    found = re.fullmatch(r"(\d+)([KMGT]?)", text or "")
    return int(found[1]) * UNITS[found[2] or "M"] if found else None


def _gpus(config: Config, layout: Layout) -> Iterator[Finding]:
    name, partition, gpus = layout.partition_name, layout.partition, layout.gpus_per_node
    if gpus > partition.gpus_per_node:
        has = f"have {partition.gpus_per_node}" if partition.gpus_per_node else "have none"
        yield _error("slurm.gpus_per_node", f"{gpus} GPUs per node, but nodes of partition {name} {has}")
    kind = config.slurm.gpu_type
    if kind is not None and kind not in partition.gpu_types:
        types = ", ".join(partition.gpu_types) or "none that can be named"
        yield _error("slurm.gpu_type", f"partition {name} has no GPU of type {kind!r}; it has {types}")
    if config.launch.strategy in ("mirrored", "single"):
        return
    if gpus and layout.ranks_per_node > gpus:
        yield _error(
            "slurm.ranks_per_node",
            f"{layout.ranks_per_node} ranks share {gpus} GPUs of a node; each rank needs one of its own",
        )
    if gpus > layout.ranks_per_node:
        yield _warning(
            "slurm.gpus_per_node", f"{gpus} GPUs per node for {layout.ranks_per_node} ranks: the others stay idle"
        )
    if layout.partition.gpus_per_node and partition.whole_nodes and 0 < gpus < partition.gpus_per_node:
        yield _warning(
            "slurm.gpus_per_node",
            f"partition {name} gives and charges whole nodes with {partition.gpus_per_node} GPUs; this job uses {gpus}",
        )
    for option in ("gpus-per-task", "gpu-bind"):
        if option in config.slurm.options:
            yield _error(
                "slurm.options",
                f"{option}: ranks must see all GPUs of their node, or NCCL cannot reach its peers; workers choose "
                "theirs by local rank. Use slurm.gpus_per_node",
            )


def _stopping(config: Config, layout: Layout) -> Iterator[Finding]:
    lead_min, limit = config.slurm.stop_lead_s / 60, config.slurm.time_limit_min
    if not config.slurm.stop_lead_s:
        yield _warning("slurm.stop_lead_s", "0: at the time limit the job is killed without a save")
    elif lead_min >= limit:
        yield _error(
            "slurm.stop_lead_s",
            f"{config.slurm.stop_lead_s} s before a limit of {limit} min leaves no time to train",
        )
    elif config.slurm.stop_lead_s < layout.site.signal_early_s + 30:
        yield _warning(
            "slurm.stop_lead_s",
            f"{config.slurm.stop_lead_s} s may be too short: give a save and one evaluation, and "
            f"{layout.site.signal_early_s} s by which Slurm may be off",
        )


def _files(layout: Layout, run_folder: str) -> Iterator[Finding]:
    shared = layout.site.shared
    roots = [*shared, *(os.path.realpath(root) for root in shared)]
    if shared and not any(run_folder == root or run_folder.startswith(root.rstrip("/") + "/") for root in roots):
        yield _error(
            "--runs",
            f"{run_folder} is not on a file system that all nodes of {layout.site.name} share ({', '.join(shared)}); "
            f"choose one with --runs{f', such as {layout.site.scratch}' if layout.site.scratch else ''}",
        )


def _container(config: Config, layout: Layout) -> Iterator[Finding]:
    image = config.container.image
    if image is None:
        return
    complaint = image_complaint(image)
    if complaint is not None:
        yield Finding(Problem(complaint[0], "container.image"), is_error=complaint[1])
    runtime = config.container.runtime if config.container.runtime != "auto" else layout.site.container
    if runtime == "pyxis" and layout.launcher not in ("srun", "native"):
        yield _error("container.runtime", f"pyxis is a part of srun, and {layout.launcher} starts the ranks; use srun")
    if config.container.python_path is None:
        yield _warning(
            "container.python_path",
            "null: the image must contain hvdtrain itself; else, on a login node: pip install --target FOLDER "
            "with the image's Python, and name FOLDER here",
        )


def charge(config: Config, layout: Layout) -> tuple[float, float]:
    """Return (node hours, units of the site) of a job that uses all its time."""
    hours = config.slurm.time_limit_min / 60
    partition, price = layout.partition, layout.partition.charge
    is_whole = partition.whole_nodes or config.slurm.exclusive
    cores = partition.cores_per_node if is_whole else layout.ranks_per_node * layout.cpus_per_rank
    gpus = partition.gpus_per_node if is_whole else layout.gpus_per_node
    per_node = price.per_node_hour + price.per_gpu_hour * gpus + price.per_core_hour * cores
    return layout.nodes * hours, layout.nodes * hours * per_node


def charge_text(config: Config, layout: Layout) -> str:
    """Return what a job costs at most, in words."""
    node_hours, units = charge(config, layout)
    cost = f", {units:,.4g} {layout.partition.charge.unit}" if units else ""
    tasks = " per task of the array" if config.slurm.array else ""
    times = config.slurm.max_requeues
    again = f"; as much again each time it queues itself again, at most {times} times" if times else ""
    where = f"{layout.site.name}, {layout.partition_name}"
    return f"  charge{tasks}: at most {node_hours:,.4g} node hours{cost} on {where}{again}"
