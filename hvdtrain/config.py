"""What the user says: the configuration contract as frozen pydantic models.

Only intent lives here (`learning_rate: 0.01`, `lr_scaling: linear`); numbers derived from it belong to `plan`.
Reading files is `config_file`'s work. This module must not import TensorFlow or probe the machine.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hvdtrain.config_rules import broken_rules
from hvdtrain.errors import ConfigError, Problem

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
IMPORT_PATH = rf"^{_DOTTED}:{_DOTTED}$"
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
NO_NUL = r"^[^\x00]*$"
# What Slurm reads from an #SBATCH line, where nothing can be quoted reliably.
SLURM_WORD = r"^[A-Za-z0-9_/\[(][A-Za-z0-9_.,:/@+=\[\]&|*()~-]{0,254}$"
SLURM_ARRAY = r"^[0-9]+([-,:][0-9]+)*(%[1-9][0-9]*)?$"
SLURM_MEMORY = r"^[1-9][0-9]*[KMGT]?$"
SBATCH_OPTION = r"^[a-z][a-z-]{1,40}$"
MODULE = r"^[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,127}$"
ONE_LINE = r"^[^\x00-\x1f\x7f\x85\u2028\u2029]+$"
BIND = r"^/[^,\x00-\x1f\x7f\x85\u2028\u2029]*$"
ABSOLUTE = r"^/[^\x00-\x1f\x7f\x85\u2028\u2029]*$"

# What the patterns mean, for messages: "must be ...".
PATTERN_WORDS = {
    IMPORT_PATH: "an import path of the form 'package.module:function'",
    RUN_NAME: "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
    ENV_NAME: "the name of an environment variable: letters, digits and '_', not beginning with a digit",
    NO_NUL: "text without NUL characters",
    SLURM_WORD: "one word as Slurm takes it in a job script: letters, digits and _.,:/@+=[]&|*()~-",
    SLURM_ARRAY: "a job array as Slurm writes it: '0-2', '1,3,5' or '0-9%2'",
    SLURM_MEMORY: "an amount of memory as Slurm writes it: '16G'",
    SBATCH_OPTION: "the long name of an sbatch option, without the dashes: 'licenses'",
    MODULE: "the name of an environment module: 'openmpi/5.0'",
    ONE_LINE: "one line of text",
    BIND: "an absolute path without commas",
    ABSOLUTE: "an absolute path",
}

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Bool = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
EnvName = Annotated[str, Field(pattern=ENV_NAME)]
SlurmWord = Annotated[str, Field(pattern=SLURM_WORD)]
SlurmMemory = Annotated[str, Field(pattern=SLURM_MEMORY)]
Module = Annotated[str, Field(pattern=MODULE)]
OneLine = Annotated[str, Field(pattern=ONE_LINE)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
LauncherName = Literal["auto", "mpirun", "srun", "native", "horovodrun", "none"]
EnvValue = Annotated[str, Field(pattern=NO_NUL)]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _plain_data(value: Any, where: str = "") -> Any:
    """Return `value` if YAML and JSON can hold it unchanged."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"keys must be text; got {key!r}{where}")
            _plain_data(item, f" at {key!r}")
    elif isinstance(value, list):
        for item in value:
            _plain_data(item, where)
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(f"can hold text, numbers, true, false, null, lists and mappings; got {value!r}{where}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite; got {value}{where}")
    return value


Args = Annotated[dict[str, Any], AfterValidator(_plain_data)]
OptimizerName = Annotated[
    Literal[
        "sgd",
        "adam",
        "adamw",
        "adadelta",
        "adagrad",
        "adamax",
        "nadam",
        "rmsprop",
        "ftrl",
        "lamb",
        "lion",
        "adafactor",
        "muon",
    ],
    BeforeValidator(_lower),
]


class Section(BaseModel):
    """A block of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Section):
    """Where the model comes from."""

    source: ImportPath = Field(
        description="Import path of a function that returns a Keras model: 'my_pkg.models:build'."
    )
    args: Args = Field(default_factory=dict, description="Keyword arguments for that function.")
    initial_weights: Text | None = Field(
        None,
        description="Weights to begin with: a .keras or .weights.h5 file, a run directory or one checkpoint in it; "
        "relative to this file's folder. null: as the function initialises them.",
    )


class DataConfig(Section):
    """Where the data come from and how ranks share them."""

    source: ImportPath = Field(
        description="Import path of a function that returns ((x_train, y_train), (x_test, y_test)) or tf.data datasets."
    )
    args: Args = Field(default_factory=dict, description="Keyword arguments for that function.")
    num_examples: PositiveInt | None = Field(
        None, description="Training examples; built-in data sets know theirs, workers verify it."
    )
    epoch_splitting: Literal["shard", "divide"] = Field(
        "shard",
        description="shard: one global permutation, each replica its part. "
        "divide: each replica sees all data in its own order, for epochs / replicas epochs.",
    )
    remainder: Literal["drop", "pad"] = Field(
        "drop",
        description="The last incomplete global batch. drop: left out. pad: used, each example with its full weight.",
    )


class TrainingConfig(Section):
    """How long and in which batches to train. Give epochs or steps, and one of the two batch sizes."""

    epochs: PositiveInt | None = Field(None, description="Passes over the training data. Give this or steps.")
    steps: PositiveInt | None = Field(None, description="Optimizer updates in all, instead of epochs.")
    batch_size_per_replica: PositiveInt | None = Field(
        None, description="Examples one replica consumes per step. Give this or global_batch_size."
    )
    global_batch_size: PositiveInt | None = Field(
        None, description="Examples all replicas together consume per step, instead of batch_size_per_replica."
    )
    gradient_accumulation_steps: PositiveInt = Field(
        1, description="Gradients summed before one update of the weights."
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="Keras dtype policy; mixed_float16 scales the loss by itself."
    )
    steps_per_execution: PositiveInt | Auto = Field(
        "auto", description="Steps one call into TensorFlow runs; auto: chosen from the length of an epoch."
    )
    deterministic: Bool = Field(
        False, description="Bitwise repeatable training: one thread per rank, deterministic operations; slower."
    )
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = Field(
        0, description="Seed of initial weights, data order and dropout."
    )
    max_minutes: PositiveFloat | None = Field(
        None, description="Minutes after which training stops with its state saved, to go on with --resume."
    )


class OptimizerConfig(Section):
    """The Keras optimizer and its learning rate."""

    name: OptimizerName = Field("sgd", description="Keras optimizer, in any case: sgd, AdamW, ...")
    learning_rate: PositiveFloat = Field(0.01, description="The rate for one replica, before scaling.")
    momentum: Annotated[float, Field(ge=0, lt=1, strict=True)] | None = Field(
        None, description="Momentum of sgd or rmsprop."
    )
    args: Args = Field(default_factory=dict, description="Further keyword arguments of the optimizer.")
    lr_scaling: Literal["none", "sqrt", "linear"] = Field(
        "none", description="How the learning rate grows with the number of replicas."
    )
    warmup_epochs: NonNegativeFloat = Field(
        0, description="Epochs in which the rate grows from learning_rate to the scaled rate."
    )
    schedule: Literal["constant", "step", "cosine", "one_cycle", "polynomial"] = Field(
        "constant", description="How the rate changes after the warm-up."
    )
    schedule_args: Args = Field(
        default_factory=dict,
        description="step: boundaries_epochs, factor. cosine: final_factor. polynomial: power, final_factor. "
        "one_cycle: warmup_fraction, final_factor. constant: none.",
    )
    clip: PositiveFloat | None = Field(None, description="Clip the averaged gradient to this global norm.")


class SyncConfig(Section):
    """The proof that all replicas hold the same values."""

    check_every_steps: PositiveInt | None = Field(
        200, description="Steps between two checks. null: only after the first step and at saves."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="A step whose averaged gradients hold NaN or infinity. stop: all ranks stop at it. "
        "skip: all ranks leave its update out, and each epoch says how many.",
    )


class CheckpointConfig(Section):
    """When rank 0 saves, and how many checkpoints are kept. The end of training is always saved."""

    every_steps: PositiveInt | None = Field(
        None, description="Steps between two saves within an epoch. null: at epochs' ends only."
    )
    every_epochs: PositiveInt | None = Field(
        1, description="Epochs between two saves. null: only at the end of training."
    )
    keep: PositiveInt = Field(3, description="How many checkpoints stay; older ones are removed.")
    on_error: Literal["stop"] = Field(
        "stop",
        description="What happens when a checkpoint cannot be written. stop: training ends once that is known, with "
        "the next steps, since checkpoints are written while training goes on. Only stop in this release.",
    )


class LaunchConfig(Section):
    """How ranks are started."""

    num_ranks: PositiveInt | None = Field(None, description="Processes under Horovod. Default: 1.")
    num_devices: PositiveInt | Auto = Field("auto", description="Devices of one process under MirroredStrategy.")
    strategy: Literal["auto", "horovod", "mirrored", "single"] = Field(
        "auto", description="auto: Horovod where it is installed, else MirroredStrategy on this machine."
    )
    launcher: LauncherName = Field(
        "auto",
        description="What starts the ranks. srun: Slurm with PMIx; native: Slurm alone, ranks meet through Gloo, which "
        "needs no MPI; horovodrun: Horovod's own, which needs ssh between nodes. auto: mpirun here, and in a Slurm job "
        "what the site's profile says.",
    )
    hostfile: OneLine | None = Field(
        None, description="File with lines such as 'node1 slots=4', on clusters without a scheduler, for mpirun."
    )
    max_restarts: Annotated[int, Field(ge=0, le=0, strict=True)] = Field(
        0, description="Restarts after a failure; only 0 in this release."
    )
    pass_env: list[EnvName] = Field(default_factory=list, description="Further environment variables the ranks see.")
    env: dict[EnvName, EnvValue] = Field(
        default_factory=dict, description="Environment variables to set for the ranks."
    )


class HorovodConfig(Section):
    """Horovod's knobs."""

    cycle_time_ms: NonNegativeFloat | Auto = Field(
        "auto",
        description="Milliseconds between two rounds of Horovod's background thread; auto: 0.1. At 0 it never sleeps.",
    )
    fusion_threshold_mb: NonNegativeFloat | Auto = Field(
        "auto", description="Size of the buffer in which small tensors travel together."
    )
    reduction: Literal["auto", "shared_memory", "horovod"] = Field(
        "auto",
        description="How gradients are averaged; auto: in shared memory if all ranks are on one machine, else Horovod.",
    )
    compression: Literal["none", "fp16"] = Field(
        "none", description="fp16: dense gradients travel between ranks in half precision, with its rounding."
    )
    op: Literal["average", "adasum"] = Field(
        "average",
        description="How gradients are combined. adasum: results differ from those of one process; ranks must be a "
        "power of two, and gradients travel through Horovod.",
    )
    num_groups: PositiveInt | None = Field(
        None, description="Collectives the gradients are cut into, so that the first leave early; null: one for all."
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


class Config(Section):
    """One training run as its author describes it."""

    name: Annotated[str, Field(pattern=RUN_NAME)] = Field(description="Name of the run and of its directory.")
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    loss: Text = Field("sparse_categorical_crossentropy", description="Name of a Keras loss.")
    metrics: list[Text] = Field(default_factory=lambda: ["accuracy"], description="Names of Keras metrics.")
    sync: SyncConfig = Field(default_factory=SyncConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    horovod: HorovodConfig = Field(default_factory=HorovodConfig)
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    container: ContainerConfig = Field(default_factory=ContainerConfig)

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Config:
        broken = list(broken_rules(self.model_dump()))
        if broken:
            raise ConfigError([Problem(rule.message, ".".join(map(str, rule.keys[0]))) for rule in broken])
        return self
