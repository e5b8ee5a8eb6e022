"""Which cores and which GPU a rank uses. The choices are pure functions; `claim_devices` carries them out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence

from hvdtrain.errors import EnvironmentNotFitError


def choose_gpu(num_visible: int, *, local_rank: int, local_size: int) -> int | None:
    """Return the index of the GPU a rank uses, or None on a machine without.

    One visible GPU means that the launcher gave each rank its own; otherwise the local rank counts.

    Raises:
        EnvironmentNotFitError: If there are fewer GPUs than ranks on this node.

    >>> choose_gpu(0, local_rank=1, local_size=2), choose_gpu(1, local_rank=1, local_size=2)
    (None, 0)
    >>> choose_gpu(4, local_rank=3, local_size=4)
    3
    """
    if num_visible == 0:
        return None
    if num_visible == 1:
        return 0
    if local_rank >= num_visible:
        raise EnvironmentNotFitError(
            f"local rank {local_rank} has no GPU: {local_size} ranks on this node and {num_visible} visible GPUs; "
            f"start at most {num_visible} ranks per node, or make all of them visible (CUDA_VISIBLE_DEVICES)"
        )
    return local_rank


def choose_cores(
    allowed: Sequence[int], *, local_rank: int, local_size: int, num_cpus: int, cores_per_rank: int | None
) -> list[int] | None:
    """Return the cores a rank binds itself to, or None to leave it where its launcher put it.

    A launcher that bound the ranks already gave each a part of the machine; splitting that again would leave
    cores idle. It is recognised by a mask too small for all ranks of the node.

    Args:
        allowed: Cores this process may use.
        local_rank: Place among the ranks of this node.
        local_size: Ranks on this node.
        num_cpus: Cores of the machine.
        cores_per_rank: What the plan foresees; None without a plan.

    >>> choose_cores([0, 1, 2, 3], local_rank=1, local_size=2, num_cpus=4, cores_per_rank=2)
    [2, 3]
    >>> choose_cores([3], local_rank=1, local_size=2, num_cpus=4, cores_per_rank=1)
    """
    cores = sorted(allowed)
    share = len(cores) // local_size
    unbound = len(cores) == num_cpus if cores_per_rank is None else share >= cores_per_rank
    if local_size < 2 or share == 0 or not unbound:
        return None
    first, width = local_rank * share, share if cores_per_rank is None else min(share, cores_per_rank)
    return cores[first : first + width]


def bind_cores(local_rank: int, local_size: int, environ: Mapping[str, str]) -> list[int]:
    """Bind this process to its cores, before any library starts threads, and return them."""
    planned = environ.get("HVDTRAIN_CORES_PER_RANK", "")
    cores = choose_cores(
        sorted(os.sched_getaffinity(0)),
        local_rank=local_rank,
        local_size=local_size,
        num_cpus=os.cpu_count() or 1,
        cores_per_rank=int(planned) if planned.isdigit() else None,
    )
    if cores:
        os.sched_setaffinity(0, cores)
    return sorted(os.sched_getaffinity(0))


def bind_first(num_cores: int) -> None:
    """Bind this process to the first of the cores it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])


def threads() -> set[int]:
    """Return the ids of this process's threads."""
    return {int(name) for name in os.listdir("/proc/self/task")}


def step_back(thread_ids: Iterable[int], *, only_when_idle: bool = False) -> None:
    """Let threads no longer interrupt those that compute: Linux's SCHED_BATCH, or SCHED_IDLE. See sched(7).

    Horovod's own threads look for work again and again, and each time they woke they took the core from the step that
    was being computed. A batch thread waits for its turn, and still gets its share: 4 to 8 % of the step of a rank
    with one core. An idle thread runs where nothing else wants to. That is right for Horovod where gradients do not
    need it: what is left for it to do, all ranks wait for.

    Args:
        thread_ids: As the system numbers them.
        only_when_idle: Take no share at all while others compute.
    """
    policy = os.SCHED_IDLE if only_when_idle else os.SCHED_BATCH
    for thread_id in thread_ids:
        with contextlib.suppress(OSError):  # a thread that has ended, or a system that forbids it
            os.sched_setscheduler(thread_id, policy, os.sched_param(0))


def claim_gpu(local_rank: int, local_size: int) -> int | None:
    """Show TensorFlow this rank's GPU only, with memory growth on, and return its index."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    index = choose_gpu(len(gpus), local_rank=local_rank, local_size=local_size)
    if index is not None:
        tf.config.set_visible_devices(gpus[index], "GPU")
        tf.config.experimental.set_memory_growth(gpus[index], True)
    return index


def split_cpu(num_devices: int) -> None:
    """Make several logical devices of this machine's CPU. Has no effect after TensorFlow's first operation."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices)


def set_threads(num_cores: int, environ: Mapping[str, str]) -> None:
    """Give TensorFlow one computing thread per core where the environment has not said so already.

    On a single core its idle threads must sleep: by default they look for work for a while, and take the core from
    the thread that has some (FC 64: a step through Horovod 0.97 -> 0.69 ms).
    """
    import tensorflow as tf

    from hvdtrain.train import compat

    if num_cores == 1:
        compat.stop_spinning()
    if "TF_NUM_INTRAOP_THREADS" not in environ:
        tf.config.threading.set_intra_op_parallelism_threads(num_cores)
        tf.config.threading.set_inter_op_parallelism_threads(1 if num_cores == 1 else 2)
