"""What a sweep file can say, as frozen pydantic models. Reading one is `file`'s work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hvdtrain.config_file import YamlFile
from hvdtrain.config_types import RUN_NAME, Args, PositiveInt, Section, Seed, Text
from hvdtrain.study.sweep_space import Space

# Ends of the names of Keras's losses and metrics, and of common ones.
SMALLER_IS_BETTER = (
    "loss", "error", "mse", "mae", "mape", "msle", "rmse", "crossentropy", "divergence", "kld", "logcosh", "log_cosh",
    "poisson", "hinge", "false_positives", "false_negatives", "perplexity",
)  # fmt: skip
LARGER_IS_BETTER = (
    "accuracy", "acc", "auc", "precision", "recall", "sensitivity", "specificity", "f1", "f1_score", "fbeta_score",
    "r2_score", "iou", "io_u", "true_positives", "true_negatives", "similarity", "correlation",
)  # fmt: skip


class Objective(Section):
    """What makes one trial better than another: a value of its last epoch, which is that of the weights it keeps."""

    metric: Text = Field("val_accuracy", description="Name of a value in the epochs' records, such as val_loss.")
    mode: Literal["auto", "max", "min"] = Field(
        "auto", description="auto: min where the name ends in loss, error or the like, max in accuracy or the like."
    )

    @property
    def is_max(self) -> bool | None:
        """Whether a larger value is better; None if neither mode nor name says so."""
        if self.mode != "auto":
            return self.mode == "max"
        name = re.sub(r"_\d+$", "", self.metric.lower())  # Keras numbers metrics of one kind: auc_1
        if name.endswith(SMALLER_IS_BETTER):
            return False
        return True if name.endswith(LARGER_IS_BETTER) else None


class Halving(Section):
    """Successive halving: all trials train for some epochs, the best ones go on for `factor` times as many."""

    factor: Annotated[int, Field(ge=2, strict=True)] = Field(3, description="Trials for one that goes on.")
    min_epochs: PositiveInt = Field(1, description="Epochs before the first decision, at least.")


class SweepConfig(Section):
    """One sweep as its author describes it."""

    name: Annotated[str, Field(pattern=RUN_NAME)] | None = Field(None, description="null: the file's name.")
    base: Text = Field(description="Configuration that the trials change; relative to this file's folder.")
    method: Literal["grid", "random", "halving"] = Field(
        description="grid: every combination. random: num_trials draws. halving: many begin, the best ones go on."
    )
    parameters: Args = Field(
        description="Key of the configuration -> a list of values, or {low: , high: , log: true, integer: true}."
    )
    num_trials: PositiveInt | None = Field(None, description="Of random and halving; halving without it: the grid.")
    seed: Seed = Field(0, description="Of the draws.")
    objective: Objective = Field(default_factory=Objective)
    halving: Halving | None = Field(None, description="Settings of method: halving.")
    invalid: Literal["error", "skip"] = Field(
        "error", description="Combinations that are no valid configuration. error: nothing starts. skip: left out."
    )


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that was read.

    Args:
        path: As the user named it.
        config: What it says.
        space: Its parameters.
        document: For the places of later problems.
    """

    path: Path
    config: SweepConfig
    space: Space
    document: YamlFile

    @property
    def name(self) -> str:
        """The sweep's, in paths."""
        return self.config.name or self.path.stem

    @property
    def base(self) -> Path:
        """The configuration behind all trials."""
        return self.path.parent / self.config.base

    @property
    def is_grid(self) -> bool:
        """Whether the trials are all combinations."""
        return self.config.method == "grid" or (self.config.method == "halving" and self.config.num_trials is None)

    @property
    def skips(self) -> bool:
        """Whether combinations that are no valid configuration are left out."""
        return self.config.invalid == "skip"

    @property
    def halving(self) -> Halving:
        """The settings of successive halving."""
        return self.config.halving or Halving()
