"""Training one run, as a story: data, model, one state on all ranks, fit, evaluate, summary."""

from __future__ import annotations

import json
import time
from typing import Any

import keras
import tensorflow as tf

from hvdtrain import metrics as records
from hvdtrain.errors import UserCodeError
from hvdtrain.rundir import write_text
from hvdtrain.train import checkpoint, compat
from hvdtrain.train.callbacks import AgreeStop, GlobalMetrics, Saver, Setup, SyncProof, global_results
from hvdtrain.train.callbacks.global_metrics import local_only
from hvdtrain.train.callbacks.record import Record, StopAtStep
from hvdtrain.train.data import EpochBatches, evaluation_batches, shard, user_dataset_batches
from hvdtrain.train.job import Job, agreed, prepare
from hvdtrain.train.order import Order
from hvdtrain.train.state import restore
from hvdtrain.train.user_code import Data


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
            *([StopAtStep(plan.total_steps, plan.steps_per_epoch)] if plan.config["training"]["steps"] else []),
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
