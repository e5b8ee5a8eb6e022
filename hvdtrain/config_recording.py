"""The blocks of a configuration on what is recorded of a run: its speed, the timeline of some steps, TensorBoard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hvdtrain.config_types import Bool, NonNegativeInt, PositiveFloat, PositiveInt, Section


class MeasureConfig(Section):
    """Time training instead of training to the end, without evaluation and checkpoints; `hvdtrain scale` uses it."""

    seconds: PositiveFloat = Field(10.0, description="Seconds of training that are timed.")
    warmup_steps: PositiveInt = Field(50, description="Steps before that, which are not timed.")
    data: Literal["real", "synthetic"] = Field(
        "real", description="synthetic: random examples of the model's shapes take the place of the data."
    )
    parts: bool = Field(
        True, description="false: speed alone, in about half the time; no ceiling, no split of the step."
    )


class TimelineConfig(Section):
    """Record some steps on all ranks and say what they were spent on; `hvdtrain run --timeline`."""

    first_step: PositiveInt = Field(41, description="Of this start of the run, from 1; whole executions are recorded.")
    last_step: PositiveInt = Field(60, description="The recording ends with the execution that holds it.")


class TensorBoardConfig(Section):
    """What rank 0 writes for TensorBoard. Scalars and hyperparameters always; the rest on request: it takes time."""

    scalars_every_steps: PositiveInt | None = Field(
        None, description="Steps between two points within an epoch. null: one a second. Each epoch's end has its own."
    )
    histograms_every_epochs: PositiveInt | None = Field(
        None, description="Epochs between two histograms of all weights. null: none."
    )
    images: NonNegativeInt = Field(
        0, description="How many training inputs, as augmented, and how many of the test set's worst mistakes to show."
    )
    graph: Bool = Field(False, description="The model's layers, and the operations of its forward pass.")
    profile_steps: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="[first, last]: steps of this start of the run, from 1, of which rank 0 is profiled; whole "
        "executions. For all ranks, and in words, record a timeline instead.",
    )
