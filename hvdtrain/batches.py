"""How many examples go into each step, on all replicas together and on each: pure arithmetic on what the user said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvdtrain import scaling
from hvdtrain.errors import PlanError, Problem
from hvdtrain.replicas import World

if TYPE_CHECKING:
    from hvdtrain.config import Config


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch.

    Args:
        per_replica: Examples of one replica in a step; some replicas may have one less.
        in_all: Examples of all replicas in a step.
        in_last: Examples of all replicas in the last step of an epoch.
        steps_per_epoch: Steps every replica runs in an epoch.
        rule: Where the batch of a replica comes from, in words.
        steps_rule: Where the steps come from, in words.
    """

    per_replica: int
    in_all: int
    in_last: int
    steps_per_epoch: int
    rule: str
    steps_rule: str


def choose_batches(config: Config, num_examples: int, world: World) -> Batches:
    """Return the batches of a configuration.

    Raises:
        PlanError: If the data, the batch and the replicas do not fit together.
    """
    is_divided = config.data.epoch_splitting == "divide"
    if is_divided and world.num_devices > 1:
        raise PlanError(
            Problem(
                "'divide' gives each rank the whole set, and MirroredStrategy has one rank; use 'shard'",
                "data.epoch_splitting",
            )
        )
    per_replica, in_all, rule = _batch_size(config, world)
    sharers = 1 if is_divided else world.num_replicas
    per_step = per_replica if is_divided else in_all
    _check_fills_one_batch(config, num_examples, per_step, sharers)
    whole, rest = divmod(num_examples, per_step)
    pads = _pads(config, world) and rest >= sharers
    steps = whole + pads
    accumulated = config.training.gradient_accumulation_steps
    if steps < accumulated:
        raise PlanError(
            Problem(
                f"an epoch has {steps} steps, too few for one update of {accumulated} accumulated ones; "
                f"use at most {steps}",
                "training.gradient_accumulation_steps",
            )
        )
    steps -= steps % accumulated
    return Batches(
        per_replica=per_replica,
        in_all=in_all,
        in_last=rest * (world.num_replicas // sharers) if pads else in_all,
        steps_per_epoch=steps,
        rule=rule,
        steps_rule=_steps_rule(config, num_examples, per_step, steps, rest if pads else 0),
    )


def _batch_size(config: Config, world: World) -> tuple[int, int, str]:
    """Return (of one replica, of all, rule)."""
    training, num_replicas = config.training, world.num_replicas
    if training.batch_size_per_replica is not None:
        batch = training.batch_size_per_replica
        return batch, batch * num_replicas, "training.batch_size_per_replica"
    whole = training.global_batch_size or 0
    key = "training.global_batch_size"
    if whole < num_replicas:
        raise PlanError(Problem(f"{whole} is less than one example for each of {num_replicas} replicas", key))
    share = math.ceil(whole / num_replicas)
    if whole % num_replicas == 0:
        return share, whole, f"training.global_batch_size {whole} / {num_replicas} replicas"
    if world.strategy == "mirrored" or config.data.epoch_splitting == "divide":
        why = "MirroredStrategy" if world.strategy == "mirrored" else "epoch_splitting 'divide'"
        below = whole - whole % num_replicas
        nearest = " or ".join(str(size) for size in (below, below + num_replicas) if size)
        raise PlanError(
            Problem(f"{whole} does not divide by {num_replicas} replicas, as {why} needs it; use {nearest}", key)
        )
    return share, whole, f"training.global_batch_size {whole} / {num_replicas} replicas: {share - 1} or {share}"


def _check_fills_one_batch(config: Config, num_examples: int, per_step: int, sharers: int) -> None:
    is_enough = num_examples >= per_step or (config.data.remainder == "pad" and num_examples >= sharers)
    if is_enough:
        return
    given = config.training.batch_size_per_replica is not None
    key = "training.batch_size_per_replica" if given else "training.global_batch_size"
    batch = f"{sharers} x {config.training.batch_size_per_replica} = {per_step}" if given else str(per_step)
    most = num_examples // sharers if given else num_examples
    advice = f"use at most {most}" if num_examples >= sharers else f"use at most {num_examples} replicas"
    raise PlanError(
        Problem(
            f"the data cannot fill one global batch: {num_examples} examples, but {batch} are used per step; {advice}",
            key,
        )
    )


def _pads(config: Config, world: World) -> bool:
    """Tell whether the last incomplete batch is used.

    Raises:
        PlanError: Where its examples could not be given their weight.
    """
    if config.data.remainder == "drop":
        return False
    if world.strategy == "mirrored":
        raise PlanError(
            Problem(
                "'pad' needs Horovod or one process: MirroredStrategy gives uneven parts the same weight; use 'drop'",
                "data.remainder",
            )
        )
    if config.training.gradient_accumulation_steps > 1:
        raise PlanError(
            Problem(
                "'pad' does not go with gradient_accumulation_steps: the smaller last batch would weigh as much as a "
                "whole one; use 'drop'",
                "data.remainder",
            )
        )
    return True


def _steps_rule(config: Config, num_examples: int, per_step: int, steps: int, in_last: int) -> str:
    if config.data.epoch_splitting == "divide":
        rule = f"divide: each replica sees all {num_examples}, {per_step} per step"
    else:
        rule = f"shard: {num_examples} / {per_step} per step"
    accumulated = config.training.gradient_accumulation_steps
    if accumulated > 1:
        rule += f", whole updates of {accumulated}"
    if in_last:
        return f"{rule}, {in_last} in the last one (pad)"
    dropped = num_examples - steps * per_step
    return f"{rule}, {dropped} left out each epoch" if dropped else rule


def steps_between_saves(config: Config, steps: int) -> int | None:
    """Return how many steps lie between two saves within an epoch; None saves at epochs' ends only.

    Raises:
        PlanError: If a save would come in the middle of an update.
    """
    every, accumulated = config.checkpoint.every_steps, config.training.gradient_accumulation_steps
    if every is not None and every % accumulated:
        raise PlanError(
            Problem(
                f"{every} steps end in the middle of an update of {accumulated} accumulated ones; "
                f"use a multiple of {accumulated}",
                "checkpoint.every_steps",
            )
        )
    return every


def steps_per_execution(config: Config, steps: int, total_steps: int, world: World) -> tuple[int, str]:
    """Return (steps per call into TensorFlow, rule).

    It divides what must end on time: a short last epoch, and the steps between two saves.

    Raises:
        PlanError: If what was asked for does not.
    """
    last, saves = total_steps % steps, steps_between_saves(config, steps) or 0
    asked = config.training.steps_per_execution
    key = "training.steps_per_execution"
    if world.strategy == "mirrored":
        if asked not in ("auto", 1):
            raise PlanError(
                Problem(f"MirroredStrategy in Keras 3 runs one step per call; got {asked}; use 'auto' or 1", key)
            )
        return 1, "mirrored: Keras 3 fails with more"
    if asked == "auto":
        largest = scaling.steps_per_execution(steps)
        chosen = next(n for n in range(largest, 0, -1) if last % n == 0 and saves % n == 0)
        return chosen, "auto: fewer calls from Python, at least ten an epoch"
    if last % asked:
        raise PlanError(
            Problem(
                f"the last epoch has {last} steps, which {asked} does not divide; use 'auto' or a divisor of {last}",
                key,
            )
        )
    if saves % asked:
        raise PlanError(
            Problem(
                f"checkpoint.every_steps is {saves}, which {asked} does not divide; use 'auto' or a divisor of {saves}",
                key,
            )
        )
    return asked, key
