"""What the user says: the configuration contract as frozen pydantic models.

Only intent lives here (`learning_rate: 0.01`, `lr_scaling: linear`); numbers derived from it belong to `plan`.
Reading files is `config_file`'s work. This module must not import TensorFlow or probe the machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A block of the configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Section):
    """Where the model comes from."""

    source: str = Field(description="Import path of a function that returns a Keras model: 'my_pkg.models:build'.")
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for that function.")


class DataConfig(Section):
    """Where the data come from and how ranks share them."""

    source: str = Field(
        description="Import path of a function that returns ((x_train, y_train), (x_test, y_test)) or tf.data datasets."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments for that function.")
    num_examples: PositiveInt | None = Field(
        None, description="Training examples; built-in data sets know theirs, workers verify it."
    )
    epoch_splitting: Literal["shard", "divide"] = Field(
        "shard",
        description="shard: one global permutation, each replica its part. "
        "divide: each replica sees all data in its own order, for epochs / replicas epochs.",
    )
    remainder: Literal["drop"] = Field("drop", description="What happens to the last incomplete global batch.")


class TrainingConfig(Section):
    """How long and in which batches to train. Give epochs or steps, and one of the two batch sizes."""

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = Field(None, description="Optimizer updates in all, instead of epochs.")
    batch_size_per_replica: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    gradient_accumulation_steps: PositiveInt = 1
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    steps_per_execution: PositiveInt | Auto = "auto"
    deterministic: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    max_minutes: PositiveFloat | None = None


class OptimizerConfig(Section):
    """The Keras optimizer and its learning rate."""

    name: str = "sgd"
    learning_rate: PositiveFloat = Field(0.01, description="The rate for one replica, before scaling.")
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    args: dict[str, Any] = Field(default_factory=dict, description="Further keyword arguments of the optimizer.")
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    warmup_epochs: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    schedule: Literal["constant", "step", "cosine", "one_cycle", "polynomial"] = "constant"
    schedule_args: dict[str, Any] = Field(default_factory=dict)
    clip: PositiveFloat | None = Field(None, description="Clip the averaged gradient to this global norm.")


class SyncConfig(Section):
    """The proof that all replicas hold the same values."""

    check_every_steps: PositiveInt | None = Field(200, description="null: only after the first step and at saves.")
    on_nonfinite: Literal["stop"] = "stop"


class CheckpointConfig(Section):
    """When rank 0 saves, and how many checkpoints are kept."""

    every_steps: PositiveInt | None = None
    every_epochs: PositiveInt | None = 1
    keep: PositiveInt = 3
    on_error: Literal["stop"] = "stop"


class LaunchConfig(Section):
    """How ranks are started."""

    num_ranks: PositiveInt | None = Field(None, description="Processes under Horovod. Default: 1.")
    num_devices: PositiveInt | Auto = Field("auto", description="Devices of one process under MirroredStrategy.")
    strategy: Literal["auto", "horovod", "mirrored", "single"] = "auto"
    launcher: Literal["auto", "mpirun", "none"] = "auto"
    max_restarts: Literal[0] = 0
    pass_env: list[str] = Field(default_factory=list, description="Further environment variables the ranks see.")
    env: dict[str, str] = Field(default_factory=dict, description="Environment variables to set for the ranks.")


class HorovodConfig(Section):
    """Horovod's knobs."""

    cycle_time_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
    fusion_threshold_mb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
    compression: Literal["none"] = "none"


class SlurmConfig(Section):
    """How much of a Slurm cluster to ask for."""

    site: str | None = None
    nodes: PositiveInt = 1
    time_limit_min: PositiveInt = 30


class Config(Section):
    """One training run as its author describes it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    loss: str = "sparse_categorical_crossentropy"
    metrics: list[str] = Field(default_factory=lambda: ["accuracy"])
    sync: SyncConfig = Field(default_factory=SyncConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    launch: LaunchConfig = Field(default_factory=LaunchConfig)
    horovod: HorovodConfig = Field(default_factory=HorovodConfig)
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
