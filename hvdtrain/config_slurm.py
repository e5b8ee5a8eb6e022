"""The blocks of a configuration that say where and how a batch job runs: `slurm` and `container`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hvdtrain.config_types import (
    ABSOLUTE,
    BIND,
    SBATCH_OPTION,
    SLURM_ARRAY,
    Bool,
    Module,
    NonNegativeInt,
    OneLine,
    PositiveInt,
    Section,
    SlurmMemory,
    SlurmWord,
    Text,
)


class ContainerConfig(Section):
    """An image that the ranks of a batch job run in."""

    image: OneLine | None = Field(None, description="File or reference of the image. null: no container.")
    runtime: Literal["auto", "apptainer", "singularity", "pyxis"] = Field(
        "auto", description="What starts it. auto: what the site's profile says, else apptainer."
    )
    binds: list[Annotated[str, Field(pattern=BIND)]] = Field(
        default_factory=list, description="Folders of the host to show inside: '/data', or '/here:/there'."
    )
    python: OneLine = Field("python3", description="The image's Python.")
    python_path: Annotated[str, Field(pattern=BIND)] | None = Field(
        None, description="Folder with hvdtrain installed for that Python (pip install --target). null: in the image."
    )
    options: list[OneLine] = Field(default_factory=list, description="Further options of the runtime.")


class SlurmConfig(Section):
    """How much of a Slurm cluster to ask for, and how. What is null comes from the site's profile or is not said."""

    site: Text | None = Field(None, description="Site profile with the facts about the cluster.")
    nodes: PositiveInt = Field(1, description="Nodes to ask for.")
    ranks_per_node: PositiveInt | None = Field(
        None, description="Ranks on each node. null: launch.num_ranks / nodes, else one per GPU, else one."
    )
    cpus_per_rank: PositiveInt | None = Field(
        None,
        description="CPUs of each rank. null: the node's CPUs shared by its ranks where it is taken whole, else 1.",
    )
    time_limit_min: PositiveInt = Field(30, description="Time limit of the job in minutes.")
    partition: SlurmWord | None = Field(None, description="Partition. null: the site's default.")
    account: SlurmWord | None = Field(None, description="Account or allocation to charge.")
    qos: SlurmWord | None = Field(None, description="Quality of service.")
    reservation: SlurmWord | None = Field(None, description="Reservation to run in.")
    constraint: SlurmWord | None = Field(None, description="Features that the nodes must have.")
    memory: SlurmMemory | None = Field(None, description="Memory of each node, such as 16G.")
    gpus_per_node: NonNegativeInt | None = Field(None, description="GPUs of each node; a rank per GPU.")
    gpu_type: SlurmWord | None = Field(None, description="Type of GPU as the site names it.")
    exclusive: Bool = Field(False, description="Whole nodes, whatever the ranks need of them.")
    dependency: SlurmWord | None = Field(None, description="Jobs to wait for, such as afterok:1234.")
    array: Annotated[str, Field(pattern=SLURM_ARRAY)] | None = Field(
        None, description="Job array such as '0-2': a run per index, whose seed is training.seed + index."
    )
    mail_user: SlurmWord | None = Field(None, description="Where mail goes.")
    mail_type: list[Literal["BEGIN", "END", "FAIL", "REQUEUE", "TIME_LIMIT", "ALL"]] = Field(
        default_factory=list, description="What mail is sent about."
    )
    work_dir: Annotated[str, Field(pattern=ABSOLUTE)] | None = Field(
        None, description="Folder in which the job runs. null: where it was submitted."
    )
    stop_lead_s: NonNegativeInt = Field(
        120,
        description="Seconds before the time limit at which training saves its state and stops. 0: it is never told.",
    )
    max_requeues: NonNegativeInt = Field(
        10, description="How often a job that was stopped in time is queued again to go on. 0: never."
    )
    mpi: Literal["auto", "pmix", "pmi2", "none"] = Field("auto", description="srun --mpi=. auto: the site's.")
    cpu_bind: SlurmWord | None = Field(None, description="srun --cpu-bind=. null: none, workers bind themselves.")
    gpu_bind: SlurmWord | None = Field(None, description="srun --gpu-bind=.")
    modules: list[Module] = Field(default_factory=list, description="Environment modules to load, after the site's.")
    prologue: list[OneLine] = Field(
        default_factory=list, description="Lines of bash that run on the first node before the ranks are started."
    )
    options: dict[Annotated[str, Field(pattern=SBATCH_OPTION)], SlurmWord | None] = Field(
        default_factory=dict, description="Further options of sbatch by their long names; null for one without a value."
    )
