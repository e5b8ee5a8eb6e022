"""Which examples a run trains on and at which step, which it holds out, and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.train.augment import changes
from hvdtrain.train.data import EpochBatches, EvaluationPart, evaluation_part, own_order, validation_part
from hvdtrain.train.deal import user_dataset_batches
from hvdtrain.train.job import Job
from hvdtrain.train.order import Order, hold_out
from hvdtrain.train.stored import OwnFiles
from hvdtrain.train.user_code import Data


@dataclass(frozen=True)
class Examples:
    """What one replica trains on.

    Args:
        order: Which examples at which step.
        batches: What `fit` iterates over.
        held_out: Its part of what each epoch is evaluated on, or None.
        is_stand_in: Whether they are made up in place of real ones.
    """

    order: Order
    batches: Any
    held_out: EvaluationPart | None
    is_stand_in: bool


def examples_of(job: Job, data: Data) -> Examples:
    """Return a replica's examples of a run."""
    order = training_order(job, data)
    batches = training_batches(job, data, order)
    return Examples(order, batches, held_out_part(job, data), is_stand_in=data.stands_in_for is not None)


def training_order(job: Job, data: Data) -> Order:
    """Return which examples this replica sees at which step.

    Raises:
        UserCodeError: If examples are to be held out of files that other ranks do not open.
    """
    plan, comm = job.plan, job.comm
    divide = plan.config["data"]["epoch_splitting"] == "divide"
    order = Order(
        num_examples=plan.num_examples,
        examples_per_step=plan.batch_size_per_replica if divide else plan.global_batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        seed=plan.config["training"]["seed"],
        rank=comm.rank,
        size=comm.size,
        divide=divide,
        chosen=_split(job)[0] if plan.num_validation else None,
    )
    if not isinstance(data.train, OwnFiles):
        return order
    if plan.num_validation:
        raise UserCodeError(
            "data.validation_split draws from all examples, and with own_files=True no rank has them all: hold out "
            "files, or leave own_files out"
        )
    own = own_order(order, data.train)
    job.console.say(own.balance_text)
    return own


def _split(job: Job) -> tuple[np.ndarray, np.ndarray]:
    plan, seed = job.plan, job.plan.config["data"]["validation_seed"]
    return hold_out(plan.num_examples + plan.num_validation, plan.num_validation, seed)


def training_batches(job: Job, data: Data, order: Order) -> Any:
    """Return what `fit` iterates over: batches of arrays must be told the epoch."""
    change = changes(job.plan.config["data"]["augment"], order)
    if data.is_indexable:
        return EpochBatches(data.train, order, change=change)
    if change is not None:
        raise UserCodeError("data.augment is for arrays; a tf.data.Dataset is changed where it is made, with map")
    rank, size = (0, 1) if order.divide else (job.comm.rank, job.comm.size)
    return user_dataset_batches(
        data.train,
        global_batch_size=order.examples_per_step,
        steps=order.steps_per_epoch,
        num_examples=order.num_examples,
        rank=rank,
        size=size,
    )


def held_out_part(job: Job, data: Data) -> EvaluationPart | None:
    """Return this rank's part of what each epoch is evaluated on: the validation examples, or else the test data."""
    if not job.plan.num_validation:
        return test_part(job, data)
    batch_size = job.plan.batch_size_per_replica * job.plan.num_devices
    return validation_part(data.train, _split(job)[1], batch_size=batch_size, rank=job.comm.rank, size=job.comm.size)


def test_part(job: Job, data: Data) -> EvaluationPart | None:
    """Return this rank's part of the test data, or None."""
    if data.test is None:
        return None
    batch_size = job.plan.batch_size_per_replica * job.plan.num_devices
    return evaluation_part(data.test, batch_size=batch_size, rank=job.comm.rank, size=job.comm.size)
