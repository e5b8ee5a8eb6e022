"""Training one run, as a story: data, model, one state on all ranks, fit, evaluate, summary."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import tensorflow as tf

from hvdtrain import metrics as records
from hvdtrain.errors import UserCodeError
from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.train import checkpoint, compat, user_code
from hvdtrain.train.callbacks import AgreeStop, GlobalMetrics, Saver, Setup, SyncProof, global_results
from hvdtrain.train.callbacks.global_metrics import local_only
from hvdtrain.train.callbacks.record import Record, StopAtStep
from hvdtrain.train.comm import Comm
from hvdtrain.train.console import Console
from hvdtrain.train.data import EpochBatches, evaluation_batches, shard, user_dataset_batches
from hvdtrain.train.failure import PeerFailedError, exit_code
from hvdtrain.train.optimizer import distribute
from hvdtrain.train.order import Order
from hvdtrain.train.schedule import ScaledSchedule
from hvdtrain.train.state import restore
from hvdtrain.train.user_code import Data

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One worker's part of a run.

    Args:
        plan: Every number.
        run: The run directory, shared by all ranks.
        folder: The configuration's folder, where the user's modules are looked for first.
        comm: The ranks.
        console: Where people look.
    """

    plan: Plan
    run: RunDir
    folder: Path
    comm: Comm
    console: Console

    def write(self, kind: str, **values: Any) -> None:
        """Add a record to `metrics.jsonl`, on rank 0."""
        if self.comm.rank == 0:
            records.append_record(self.run.metrics, records.record_line(kind, time.time(), **values))


def train(job: Job) -> dict[str, Any]:
    """Train, and return the summary that was written.

    Raises:
        HvdtrainError: On all ranks alike, with the exit code that says what happened.
    """
    began = time.time()
    plan = job.plan
    data, model = agreed(job.comm, lambda: prepare(job))
    found, complaints = newest_checkpoint(job)
    for complaint in complaints:
        job.console.say(f"warning: damaged checkpoint passed over: {complaint}")
    initial_epoch = found.state["epochs_done"] if found else 0
    if found:
        job.console.say(f"resuming after epoch {initial_epoch} (step {found.step})")
    job.write("start", num_ranks=plan.num_ranks, num_replicas=plan.num_replicas, initial_epoch=initial_epoch)
    batches = training_batches(job, data)
    proof = SyncProof(job.comm, plan.config["sync"]["check_every_steps"])
    record = Record(plan, job.console, job.write)
    fit(job, model, batches, test_batches(job, data), found, [proof, record])
    if not record.last_logs:  # resumed after the last epoch: nothing was left but this end
        proof.check()
        record.last_logs = records.last_epoch_metrics(job.run.metrics)
    job.comm.gather_json("done", name="barrier")  # nobody leaves while rank 0 still writes
    summary = summarise(job, model, record, proof, seconds=time.time() - began)
    if job.comm.rank == 0:
        write_text(job.run.summary, json.dumps(summary, indent=1) + "\n")
        job.write("end", **{key: summary[key] for key in ("epochs", "step", "digest", "seconds")})
        write_text(job.run.finished, "")
    return summary


def prepare(job: Job) -> tuple[Data, keras.Model]:
    """Return data and compiled model, checked against each other and the plan. No collective in here."""
    plan = job.plan
    strategy = choose_strategy(plan)
    keras.utils.set_random_seed(plan.config["training"]["seed"])
    if plan.config["training"]["deterministic"]:
        tf.config.experimental.enable_op_determinism()
    data = load(job)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build(job, data)
        compile_model(model, plan, job.comm)
    return data, model


def agreed(comm: Comm, work: Callable[[], T]) -> T:
    """Do something that may fail on some ranks only, and go on only if it worked on all.

    Raises:
        PeerFailedError: On the ranks that did not fail first.
    """
    problem: Exception | None = None
    try:
        result = work()
    except Exception as error:
        problem = error
    codes = comm.gather_json(exit_code(problem) if problem else 0, name="agree")
    first = next((rank for rank, code in enumerate(codes) if code), None)
    if first is None:
        return result
    if problem is not None and first == comm.rank:
        raise problem
    raise PeerFailedError(first, codes[first])


def choose_strategy(plan: Plan) -> tf.distribute.Strategy | None:
    """Return the MirroredStrategy of a plan that asks for one, over GPUs or parts of the CPU."""
    if plan.strategy != "mirrored":
        return None
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * plan.num_devices)
    kind = "GPU" if gpus else "CPU"
    if gpus and len(gpus) < plan.num_devices:
        raise UserCodeError(f"{plan.num_devices} devices were planned, but {len(gpus)} GPUs are visible")
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(plan.num_devices)])


def load(job: Job) -> Data:
    """Return the user's data, verified against the plan."""
    config = job.plan.config["data"]
    data = user_code.load_data(config["source"], job.folder, config["args"], num_examples=job.plan.num_examples)
    test = data.test
    if test is not None and not isinstance(test, tf.data.Dataset) and user_code.count(test) < job.comm.size:
        raise UserCodeError(
            f"{config['source']}: {user_code.count(test)} test examples for {job.comm.size} ranks; "
            "each rank needs one at least"
        )
    return data


def build(job: Job, data: Data) -> keras.Model:
    """Return the user's model, with the data checked against it."""
    config = job.plan.config
    model = user_code.build_model(config["model"]["source"], job.folder, config["model"]["args"])
    user_code.check_arrays(data, model, config["loss"], config["data"]["source"])
    user_code.require_weights(model, config["model"]["source"])
    return model


def compile_model(model: keras.Model, plan: Plan, comm: Comm) -> None:
    """Compile with the plan's optimizer, distributed where there are several ranks."""
    optimizer = make_optimizer(plan)
    model.compile(
        optimizer=distribute(optimizer, comm) if plan.strategy == "horovod" else optimizer,
        loss=plan.config["loss"],
        metrics=list(plan.config["metrics"]),
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
    if plan.config["training"]["gradient_accumulation_steps"] > 1:
        arguments["gradient_accumulation_steps"] = plan.config["training"]["gradient_accumulation_steps"]
    rate: Any = plan.learning_rate
    if config["schedule"] != "constant" or plan.warmup_steps:
        rate = ScaledSchedule(
            config["schedule"],
            plan.base_learning_rate,
            plan.learning_rate,
            plan.warmup_steps,
            plan.total_steps,
            plan.schedule_args,
        )
    try:
        optimizer_class = type(keras.optimizers.get(config["name"].lower()))
        return optimizer_class(learning_rate=rate, **arguments)
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"optimizer {config['name']} with {arguments}: {error}") from error


def training_batches(job: Job, data: Data) -> Any:
    """Return what `fit` iterates over, and what must be told the epoch."""
    plan, comm = job.plan, job.comm
    if plan.strategy == "mirrored":
        batch_size, rank, size = plan.global_batch_size, 0, 1
    else:
        batch_size, rank, size = plan.batch_size_per_replica, comm.rank, comm.size
    divide = plan.config["data"]["epoch_splitting"] == "divide"
    if not data.is_indexable:
        sharers = (0, 1) if divide else (rank, size)
        return user_dataset_batches(
            data.train, batch_size=batch_size, steps=plan.steps_per_epoch, rank=sharers[0], size=sharers[1]
        )
    order = Order(
        num_examples=plan.num_examples,
        batch_size=batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        seed=plan.config["training"]["seed"],
        rank=rank,
        size=size,
        divide=divide,
    )
    return EpochBatches(data.train, order)


def test_batches(job: Job, data: Data) -> tf.data.Dataset | None:
    """Return this rank's part of the test data, or None."""
    batch_size = job.plan.batch_size_per_replica * job.plan.num_devices
    if data.test is None:
        return None
    if isinstance(data.test, tf.data.Dataset):
        return shard(data.test, rank=job.comm.rank, size=job.comm.size).batch(batch_size)
    return evaluation_batches(data.test, batch_size=batch_size, rank=job.comm.rank, size=job.comm.size)


class TellEpoch(keras.callbacks.Callback):
    """Tell the data which epoch comes next."""

    def __init__(self, batches: EpochBatches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the epoch before Keras asks for an iterator."""
        self._batches.epoch = epoch


def fit(
    job: Job,
    model: keras.Model,
    batches: Any,
    validation: tf.data.Dataset | None,
    found: checkpoint.Checkpoint | None,
    watchers: list[keras.callbacks.Callback],
) -> None:
    """Run Keras's own fit with the callbacks that keep ranks together."""
    plan = job.plan
    put_back = (lambda model: restore(model, found)) if found else None
    saver = Saver(
        job.comm,
        job.run.checkpoints,
        every_epochs=plan.config["checkpoint"]["every_epochs"],
        keep=plan.config["checkpoint"]["keep"],
        state={"plan_digest": plan.digest(), "global_batch_size": plan.global_batch_size},
        on_saved=lambda path: job.write("checkpoint", path=path.name),
    )
    is_epochs = isinstance(batches, EpochBatches)
    model.fit(
        batches.dataset() if is_epochs else batches,
        epochs=plan.epochs,
        initial_epoch=found.state["epochs_done"] if found else 0,
        validation_data=validation,
        verbose=0,
        callbacks=[
            *([TellEpoch(batches)] if is_epochs else []),
            Setup(job.comm, restore=put_back, facts={"plan digest": plan.digest()}),
            GlobalMetrics(job.comm),
            *([StopAtStep(plan.total_steps)] if plan.config["training"]["steps"] else []),
            *watchers,
            saver,
            AgreeStop(job.comm),
        ],
    )


def newest_checkpoint(job: Job) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint of this run, if it has any, and complaints about damaged ones."""
    checkpoint_found, complaints = checkpoint.load_newest(job.run.checkpoints)
    steps = job.comm.gather_json(checkpoint_found.step if checkpoint_found else None, name="resume")
    if len(set(steps)) > 1:
        raise UserCodeError(
            f"ranks see different checkpoints (steps {steps}) in {job.run.checkpoints}; "
            "the run directory must be on a file system that all ranks share"
        )
    return checkpoint_found, complaints


def summarise(job: Job, model: keras.Model, record: Record, proof: SyncProof, *, seconds: float) -> dict[str, Any]:
    """Return the outcome in one object."""
    newest = checkpoint.checkpoints(job.run.checkpoints)[-1:] if job.comm.rank == 0 else []
    return {
        "name": job.plan.name,
        "num_ranks": job.plan.num_ranks,
        "num_replicas": job.plan.num_replicas,
        "strategy": job.plan.strategy,
        "epochs": job.plan.epochs,
        "step": compat.steps_taken(model),
        "parameters": model.count_params(),
        "digest": proof.digest,
        "sync_checks": proof.num_checks,
        "rank0_only_metrics": local_only(model) if job.comm.size > 1 else [],
        "metrics": record.last_logs,
        "first_step_time": record.first_step_time,
        "checkpoint": newest[0].name if newest else None,
        "seconds": round(seconds, 3),
    }


def evaluate(job: Job) -> dict[str, Any]:
    """Return the metrics of the run's newest checkpoint on its test data.

    Raises:
        UserCodeError: If the data source has no test data, or the run no checkpoint yet.
    """
    data, model = prepare(job)
    found, complaints = newest_checkpoint(job)
    for complaint in complaints:
        job.console.say(f"warning: damaged checkpoint passed over: {complaint}")
    if found is None:
        raise UserCodeError(f"{job.run.path}: no checkpoint yet, so there is nothing to evaluate")
    restore(model, found, with_optimizer=False)
    batches = test_batches(job, data)
    if batches is None:
        raise UserCodeError(f"{job.plan.config['data']['source']} returns no test data to evaluate on")
    model.evaluate(batches, verbose=0)
    return {"run": str(job.run.path), "step": found.step, "metrics": global_results(model, job.comm)}
