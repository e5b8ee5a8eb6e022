"""Before the first step: the user's data and model, checked against each other and the plan, and compiled."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from hvdtrain import metrics as records
from hvdtrain.errors import UserCodeError
from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir
from hvdtrain.train import user_code
from hvdtrain.train.comm import Comm
from hvdtrain.train.console import Console
from hvdtrain.train.devices import split_cpu
from hvdtrain.train.exchange import Exchange
from hvdtrain.train.losses import make_loss, make_metrics, snake_case
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.schedule import ScaledSchedule
from hvdtrain.train.stage import stage
from hvdtrain.train.user_code import Data


@dataclass(frozen=True)
class Job:
    """One worker's part of a run.

    Args:
        plan: Every number.
        run: The run directory, shared by all ranks.
        folder: The configuration's folder, where the user's modules are looked for first.
        comm: The ranks.
        console: Where people look.
        began: When this start of the run began, as `time.monotonic()` tells it.
        is_batch: Whether a batch script started this: it may write STOP.
        told: Reasons to stop that this process has been told.
    """

    plan: Plan
    run: RunDir
    folder: Path
    comm: Comm
    console: Console
    began: float = field(default_factory=time.monotonic)
    is_batch: bool = False
    told: list[str] = field(default_factory=list)

    def write(self, kind: str, **values: Any) -> None:
        """Add a record to `metrics.jsonl`, on rank 0."""
        if self.comm.rank == 0:
            records.append_record(self.run.metrics, records.record_line(kind, time.time(), **values))


    def show_progress(self, **values: Any) -> None:
        """Say where training is, on rank 0, for `hvdtrain status`. An ornament: it may fail, and is not synced."""
        if self.comm.rank != 0:
            return
        temporary = self.run.progress.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps({"time": time.time(), **values}) + "\n", encoding="utf-8")
            temporary.replace(self.run.progress)


def prepare(job: Job) -> tuple[Data, keras.Model]:
    """Return data and compiled model, checked against each other and the plan. No collective in here."""
    plan = job.plan
    strategy = choose_strategy(plan)
    keras.mixed_precision.set_dtype_policy(plan.config["training"]["precision"])
    keras.utils.set_random_seed(plan.config["training"]["seed"])
    if plan.config["training"]["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    data = load(job)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build(job, data)
        compile_model(model, plan, job.comm, job.folder)
        user_code.check_compiled(data, model, plan.config["loss"], plan.config["data"]["source"])
    return data, model


def choose_strategy(plan: Plan) -> tf.distribute.Strategy | None:
    """Return the MirroredStrategy of a plan that asks for one, over GPUs or parts of the CPU."""
    if plan.strategy != "mirrored":
        return None
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        split_cpu(plan.num_devices)
    kind = "GPU" if gpus else "CPU"
    if gpus and len(gpus) < plan.num_devices:
        raise UserCodeError(f"{plan.num_devices} devices were planned, but {len(gpus)} GPUs are visible")
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(plan.num_devices)])


def load(job: Job) -> Data:
    """Return the user's data, verified against the plan; say it if they are made up in place of others.

    Raises:
        UserCodeError: If they are not what the configuration says, or cannot be split as it asks for.
    """
    config = job.plan.config["data"]
    in_all = job.plan.num_examples + job.plan.num_validation
    args = staged(config["args"], config["stage"], job)
    data = user_code.load_data(config["source"], job.folder, args, num_examples=in_all)
    if job.plan.num_validation and not data.is_indexable:
        raise UserCodeError(
            f"data.validation_split is for arrays, and {config['source']} returns a tf.data.Dataset: split it there, "
            "return (train, validation), and set data.validation_split: 0"
        )
    if data.stands_in_for:
        job.console.say(
            f"WARNING: NOT REAL DATA. Made-up ones of the same form stand in for {data.stands_in_for}: results show "
            f"that everything works, and nothing else. Why: {data.why}"
        )
    return data


def staged(args: Mapping[str, Any], settings: Mapping[str, Any] | None, job: Job) -> dict[str, Any]:
    """Return the arguments with the paths of copies on this node's disk in place of those that are to be staged."""
    if settings is None:
        return dict(args)
    copies: dict[str, Any] = {}
    for name in settings["args"]:
        found = stage(args[name], job.comm, to=settings["to"], keep=settings["keep"], say=job.console.say)
        copies[name] = str(found) if isinstance(found, Path) else [str(place) for place in found]
    return {**args, **copies}


def build(job: Job, data: Data) -> keras.Model:
    """Return the user's model, with the data checked against it."""
    config = job.plan.config
    model = user_code.build_model(config["model"]["source"], job.folder, config["model"]["args"])
    labels = user_code.Labels(snake_case(config["loss"]), config["loss_args"].get("ignore_class"))
    user_code.check_arrays(data, model, labels, config["data"]["source"])
    user_code.require_weights(model, config["model"]["source"])
    return model


def compile_model(model: keras.Model, plan: Plan, comm: Comm, folder: Path) -> None:
    """Compile with the plan's optimizer, distributed so that each step is watched; one process averages with nobody.

    Under MirroredStrategy Keras's optimizer adds up the devices' gradients by itself, after the place of ours.
    """
    optimizer = make_optimizer(plan)
    horovod = plan.config["horovod"]
    exchange = Exchange(horovod["compression"], horovod["op"], horovod["num_groups"])
    if plan.strategy != "mirrored":
        optimizer = distribute(optimizer, comm, exchange, on_nonfinite=plan.config["sync"]["on_nonfinite"])
    model.compile(
        optimizer=optimizer,
        loss=make_loss(plan.config["loss"], plan.config["loss_args"], folder),
        metrics=make_metrics(plan.config["metrics"], len(getattr(model, "outputs", None) or [None])),
        steps_per_execution=plan.steps_per_execution,
        jit_compile=False,
    )


def make_optimizer(plan: Plan) -> keras.optimizers.Optimizer:
    """Return the Keras optimizer with the plan's learning rate schedule.

    Raises:
        UserCodeError: If Keras does not take the arguments.
    """
    config = plan.config["optimizer"]
    arguments = dict(config["args"])
    if config["momentum"] is not None:
        arguments["momentum"] = config["momentum"]
    if config["clip"] is not None:
        arguments["global_clipnorm"] = config["clip"]
    steps_per_update = plan.config["training"]["gradient_accumulation_steps"]
    if steps_per_update > 1:
        arguments["gradient_accumulation_steps"] = steps_per_update
    rate: Any = plan.learning_rate
    if config["schedule"] != "constant" or plan.warmup_steps:
        rate = ScaledSchedule(
            config["schedule"],
            plan.base_learning_rate,
            plan.learning_rate,
            plan.warmup_steps,
            plan.total_steps,
            plan.schedule_args,
            steps_per_update,
        )
    try:
        optimizer_class = type(keras.optimizers.get(config["name"].lower()))
        return optimizer_class(learning_rate=rate, **arguments)
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"optimizer {config['name']} with {arguments}: {error}") from error
