"""Slurm's words: the #SBATCH lines of a job, each with its reason. Pure.

https://slurm.schedmd.com/sbatch.html
"""

from __future__ import annotations

from collections.abc import Iterator

from hvdtrain.config import Config
from hvdtrain.launch.request import Setting
from hvdtrain.schedulers.layout import Layout

STOP_SIGNAL = "USR1"


def directives(config: Config, layout: Layout) -> Iterator[Setting]:
    """Yield the options of sbatch that a job's script carries."""
    yield Setting((f"--job-name={config.name}",), "name")
    yield from _where(config, layout)
    yield from _how_much(config, layout)
    yield from _when(config)
    yield from _telling(config)
    for name, value in config.slurm.options.items():
        yield Setting((f"--{name}" if value is None else f"--{name}={value}",), "slurm.options")


def _where(config: Config, layout: Layout) -> Iterator[Setting]:
    slurm = config.slurm
    if layout.partition.is_named:
        said = "slurm.partition" if slurm.partition else f"the default of site {layout.site.name}"
        yield Setting((f"--partition={layout.partition_name}",), said)
    for key in ("account", "qos", "reservation", "constraint"):
        own, of_partition = getattr(slurm, key), getattr(layout.partition, key, None)
        if own is not None or of_partition is not None:
            reason = f"slurm.{key}" if own is not None else f"site {layout.site.name}, {layout.partition_name}"
            yield Setting((f"--{key}={own if own is not None else of_partition}",), reason)
    if slurm.work_dir is not None:
        yield Setting((f"--chdir={slurm.work_dir}",), "slurm.work_dir")


def _how_much(config: Config, layout: Layout) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting((f"--nodes={layout.nodes}",), "slurm.nodes")
    yield Setting((f"--ntasks-per-node={layout.ranks_per_node}",), f"{layout.num_ranks} ranks, as many on each node")
    yield Setting((f"--cpus-per-task={layout.cpus_per_rank}",), "CPUs of each rank")
    if layout.gpus_per_node:
        kind = f"{slurm.gpu_type}:" if slurm.gpu_type else ""
        option = "gres=gpu:" if layout.site.gpu_option == "gres" else "gpus-per-node="
        yield Setting(
            (f"--{option}{kind}{layout.gpus_per_node}",),
            "per node, not per task: ranks of one node must see each other's GPUs for NCCL",
        )
    if slurm.memory is not None:
        yield Setting((f"--mem={slurm.memory}",), "slurm.memory, per node")
    if slurm.exclusive:
        yield Setting(("--exclusive",), "slurm.exclusive: whole nodes")


def _when(config: Config) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting((f"--time={slurm.time_limit_min}",), "slurm.time_limit_min, in minutes")
    if slurm.stop_lead_s:
        yield Setting(
            (f"--signal=B:{STOP_SIGNAL}@{slurm.stop_lead_s}",),
            "seconds before the limit this script, and not the ranks, is told to stop",
        )
    if slurm.max_requeues:
        yield Setting(("--requeue",), "a preempted job, or one whose node fails, is queued again and resumes")
    else:
        yield Setting(("--no-requeue",), "slurm.max_requeues: 0")
    if slurm.dependency is not None:
        yield Setting((f"--dependency={slurm.dependency}",), "slurm.dependency")
    if slurm.array is not None:
        yield Setting((f"--array={slurm.array}",), "slurm.array: a run per index, its seed is training.seed + index")


def _telling(config: Config) -> Iterator[Setting]:
    slurm = config.slurm
    yield Setting(("--open-mode=append",), "a job that is queued again must not lose its first log")
    if slurm.mail_user is not None:
        yield Setting((f"--mail-user={slurm.mail_user}",), "slurm.mail_user")
    if slurm.mail_type:
        yield Setting((f"--mail-type={','.join(slurm.mail_type)}",), "slurm.mail_type")
