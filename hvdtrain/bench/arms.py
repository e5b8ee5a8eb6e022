"""The ways to train that are compared, and how each is started."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from hvdtrain.bench.task import INPUTS
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.facts import Facts, search_path
from hvdtrain.launch.job import command_script
from hvdtrain.launch.request import Setting
from hvdtrain.launch.shell import script_text

# `build-horovod` lets Horovod's thread sleep; who does without hvdtrain has one that does not.
AS_RELEASED = "HOROVOD_IDLE_WAIT=0"
WORKER = "hvdtrain.train.bench.worker"
# Gloo gives up after 30 s without an answer, and an arm stands still while the others have their turns.
GLOO_PATIENCE = ("--gloo-timeout-seconds", "3600")
# What a default launch must not inherit from the shell the benchmark was started in.
OUR_PREFIXES = ("HOROVOD_", "HVDTRAIN_", "TF_", "OMP_", "OMPI_", "PRTE_", "KERAS_")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: As shown in tables.
        kind: What its workers do; see `Task`.
        launch: `product`, `default` (plain mpirun), `horovodrun` or `alone`.
        text: What it is, for readers.
        changes: NAME=VALUE on top of the product's environment.
        has_global_batch: Whether its process takes the batch of all ranks together.
        data: See `Task`.
    """

    name: str
    kind: str
    launch: str
    text: str
    changes: tuple[str, ...] = ()
    has_global_batch: bool = False
    data: str = "memory"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("hvdtrain", "hvdtrain", "product", "Keras fit with hvdtrain, as `hvdtrain run` starts it"),
        Arm(
            "hand-written",
            "hand-written",
            "product",
            "a tf.function loop with Horovod as released, launched the same way",
            (AS_RELEASED,),
        ),
        Arm("ceiling", "ceiling", "product", "plain Keras fit, as many pinned processes, no communication"),
        Arm("default", "hand-written", "default", "the hand-written loop under plain mpirun, Horovod as released"),
        Arm("one process", "one process", "alone", "plain Keras fit, one process on all cores, batch as on one rank"),
        Arm(
            "one process at global batch",
            "one process",
            "alone",
            "the same with the batch of all ranks together",
            has_global_batch=True,
        ),
        Arm("horovodrun", "hand-written", "horovodrun", "the hand-written loop under plain horovodrun (Gloo)"),
        Arm(
            "mirrored",
            "mirrored",
            "alone",
            "Keras fit under MirroredStrategy, a logical CPU device for each rank, one step per call",
            has_global_batch=True,
        ),
        Arm("PyTorch", "torch", "alone", "a PyTorch loop, one process on all cores, batch as on one rank"),
        Arm(
            "PyTorch at global batch",
            "torch",
            "alone",
            "the same with the batch of all ranks together",
            has_global_batch=True,
        ),
        Arm("PyTorch DDP", "torch", "product", "the PyTorch loop under DistributedDataParallel (Gloo), pinned alike"),
    )
}
USUAL = ("hvdtrain", "hand-written", "ceiling", "default", "one process", "one process at global batch")
SAVING = dataclasses.replace(
    ARMS["hvdtrain"], name="hvdtrain saving", kind="hvdtrain saving", text="the same with checkpoints on the disk"
)
CURVES = dataclasses.replace(
    ARMS["hvdtrain"], name="hvdtrain curves", kind="hvdtrain curves", text="the same with curves for TensorBoard"
)
UNCHECKED = dataclasses.replace(
    ARMS["hvdtrain"], name="hvdtrain unchecked", kind="hvdtrain unchecked",
    text="the same without comparing replicas, looking for NaN, comparing ranks at the start, and global metrics",
)  # fmt: skip
KERAS_UPDATE = dataclasses.replace(
    ARMS["hvdtrain"],
    name="hvdtrain, Keras's update",
    kind="hvdtrain keras update",
    text="the same with Keras's own Adam",
)
AGAIN = dataclasses.replace(ARMS["hvdtrain"], name="hvdtrain again", text="the first arm once more (A/A control)")


def reading(data: str) -> Arm:
    """Return the product on data that are read in one of the ways of `INPUTS`."""
    text = f"hvdtrain on {INPUTS[data]}"
    return dataclasses.replace(ARMS["hvdtrain"], name=f"hvdtrain on {data}", text=text, data=data)


def variant(change: str) -> Arm:
    """Return the product with NAME=VALUE changed in its workers' environment."""
    return dataclasses.replace(
        ARMS["hvdtrain"], name=f"hvdtrain {change}", text=f"hvdtrain with {change}", changes=(change,)
    )


def command_of(arm: Arm, task_path: str, facts: Facts, num_ranks: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts an arm, and its environment.

    Raises:
        EnvironmentNotFitError: If there is no Open MPI to start ranks with.
    """
    worker = [sys.executable, "-m", WORKER, task_path]
    if arm.launch == "default":
        return ["mpirun", "-np", str(num_ranks), *worker], default_environment(os.environ)
    if arm.launch == "horovodrun":
        return ["horovodrun", "--gloo", *GLOO_PATIENCE, "-np", str(num_ranks), *worker], default_environment(os.environ)
    is_alone = arm.launch == "alone"
    if facts.mpi is None and not is_alone:
        raise EnvironmentNotFitError(f"the benchmark starts ranks with Open MPI 4 or 5, found: {facts.mpi_found}")
    script = command_script(
        worker,
        num_ranks=1 if is_alone else num_ranks,
        num_cores=facts.num_cores or num_ranks,
        launcher="none" if is_alone else facts.mpi or "none",
    )
    changes = [Setting((change,), "changed by the benchmark") for change in arm.changes]
    text = script_text(dataclasses.replace(script, env=(*script.env, *changes)))
    return ["bash", "-c", text, "hvdtrain"], {**os.environ, "PATH": search_path()}


def default_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without any setting that touches training, and Horovod as it was released.

    Root stays allowed to use mpirun.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(OUR_PREFIXES)}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    name, _, value = AS_RELEASED.partition("=")
    return {**kept, **root, name: value, "PATH": search_path()}
