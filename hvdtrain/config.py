"""What the user says: the configuration contract as frozen pydantic models.

Only intent lives here (`learning_rate: 0.01`, `lr_scaling: linear`); numbers derived from it belong to `plan`.
Reading files is `config_file`'s work. This module must not import TensorFlow or probe the machine.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hvdtrain.config_recording import MeasureConfig, TensorBoardConfig, TimelineConfig
from hvdtrain.config_rules import broken_rules
from hvdtrain.config_slurm import ContainerConfig, SlurmConfig
from hvdtrain.config_types import (
    RUN_NAME,
    Angle,
    Args,
    Auto,
    Bool,
    EnvName,
    EnvValue,
    ImportPath,
    LauncherName,
    NonNegativeFloat,
    OneLine,
    OptimizerName,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Seed,
    Share,
    Text,
)
from hvdtrain.errors import ConfigError, Problem


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


class AugmentConfig(Section):
    """Changes of training images, drawn anew for each example in each epoch; the same on any number of ranks."""

    translation: Share = Field(0.0, description="Largest shift either way, as a share of the side.")
    rotation: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False, strict=True)] = Field(
        0.0, description="Largest angle either way, degrees."
    )
    scale: Share = Field(0.0, description="Largest change of size either way: 0.1 is 0.9 to 1.1 times.")
    shear: Angle = Field(0.0, description="Largest angle of the slant either way, degrees.")
    elastic: NonNegativeFloat = Field(0.0, description="Standard deviation of the bends, in points.")
    cutout: Share = Field(0.0, description="Side of a square of 0 somewhere, at most, as a share of the image's.")
    noise: NonNegativeFloat = Field(0.0, description="Standard deviation of noise in every value.")
    mirror: Bool = Field(False, description="Exchange left and right of every other image, drawn anew; not for digits.")
    probability: Probability = Field(1.0, description="Of an example to be changed at all in an epoch.")


class StageConfig(Section):
    """Copy data to each node's own disk before training; each byte is read from the shared file system once per job."""

    args: Annotated[list[Text], Field(min_length=1)] = Field(
        description="Names in data.args: files, folders or patterns to copy; the function gets the copies' paths."
    )
    to: Text = Field(
        "auto",
        description="A folder on each node's own disk, with variables: '/scratch/$USER'. auto: the first that there is "
        "of $SLURM_TMPDIR, $TMPDIR and /tmp.",
    )
    keep: Bool = Field(True, description="Whether the copy stays when training has ended, for the next start.")


class DataConfig(Section):
    """Where the data come from and how ranks share them."""

    source: ImportPath = Field(
        description="Import path of a function that returns ((x_train, y_train), (x_test, y_test)) or tf.data datasets."
    )
    args: Args = Field(default_factory=dict, description="Keyword arguments for that function.")
    inputs: ImportPath | None = Field(
        None,
        description="Import path of a function that makes the model's inputs of an array of raw rows, for hvdtrain "
        "predict; null: rows are taken as they are.",
    )
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
    augment: AugmentConfig | None = Field(None, description="Changes of training images; null: none.")
    validation_split: Share = Field(
        0.0,
        description="Share of the training examples that is held out, and evaluated after each epoch in place of the "
        "test data: for choices. 0: none. Arrays only.",
    )
    validation_seed: Seed = Field(0, description="Decides which examples are held out; training.seed does not.")
    stage: StageConfig | None = Field(None, description="Copy data to each node's own disk first; null: read directly.")


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
    seed: Seed = Field(0, description="Seed of initial weights, data order and dropout.")
    max_minutes: PositiveFloat | None = Field(
        None, description="Minutes after which training stops with its state saved, to go on with --resume."
    )
    stop_after_epochs: PositiveInt | None = Field(
        None,
        description="Epochs after which training stops with its state saved, to go on with --resume. The learning rate "
        "follows the whole training. null: train to the end.",
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
    cores_per_rank: PositiveInt | None = Field(
        None, description="Cores of this machine that each rank is bound to; null: an equal share of all of them."
    )
    threads_per_rank: PositiveInt | None = Field(
        None, description="Computing threads of each rank; null: one per core. Another number rounds sums differently."
    )
    yield_when_idle: Bool | Auto = Field(
        "auto",
        description="Whether a rank that waits in Open MPI gives up its core meanwhile; auto: where it has only one.",
    )
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


class Config(Section):
    """One training run as its author describes it."""

    name: Annotated[str, Field(pattern=RUN_NAME)] = Field(description="Name of the run and of its directory.")
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    loss: Text = Field(
        "sparse_categorical_crossentropy",
        description="Name of a Keras loss, or an import path of what returns one: 'my_pkg.losses:Focal'.",
    )
    loss_args: Args = Field(default_factory=dict, description="Keyword arguments of the loss.")
    metrics: list[Text] = Field(default_factory=lambda: ["accuracy"], description="Names of Keras metrics.")
    sync: SyncConfig = Field(default_factory=SyncConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    horovod: HorovodConfig = Field(default_factory=HorovodConfig)
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    container: ContainerConfig = Field(default_factory=ContainerConfig)
    tensorboard: TensorBoardConfig = Field(default_factory=TensorBoardConfig)
    measure: MeasureConfig | None = Field(None, description="Measure speed instead of training; null: train.")
    timeline: TimelineConfig | None = Field(None, description="Steps whose timeline is recorded; null: none.")

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Config:
        broken = list(broken_rules(self.model_dump()))
        if broken:
            raise ConfigError([Problem(rule.message, ".".join(map(str, rule.keys[0]))) for rule in broken])
        return self
