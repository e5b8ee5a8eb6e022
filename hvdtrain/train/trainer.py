"""Training one run, as a story: data, model, one state on all ranks, fit, evaluate, summary."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras

from hvdtrain import metrics as records
from hvdtrain.errors import StoppedError, UserCodeError
from hvdtrain.rundir import write_text
from hvdtrain.train import checkpoint, compat, initial_weights
from hvdtrain.train.augment import changes
from hvdtrain.train.board import Board
from hvdtrain.train.callbacks import (
    AgreeStop,
    Finite,
    GlobalMetrics,
    Resume,
    Saver,
    Setup,
    SyncProof,
    TellEpoch,
    WeighUneven,
    global_results,
)
from hvdtrain.train.callbacks.global_metrics import local_only
from hvdtrain.train.callbacks.interrupt import Interrupt, Reason, stop_file, time_is_over
from hvdtrain.train.callbacks.lead_time import LeadTime
from hvdtrain.train.callbacks.record import Record, StopAtStep
from hvdtrain.train.callbacks.speed import Speed
from hvdtrain.train.callbacks.timeline import Timeline
from hvdtrain.train.data import EpochBatches, EvaluationPart, evaluation_part
from hvdtrain.train.deal import user_dataset_batches
from hvdtrain.train.exposed import watch_exposed
from hvdtrain.train.job import Job, agreed, prepare
from hvdtrain.train.optimizer import reduction_of
from hvdtrain.train.order import Order
from hvdtrain.train.state import restore, restore_final
from hvdtrain.train.sync_batch_norm import small_batch_hint
from hvdtrain.train.tensorboard import open_board, show_worst, shown
from hvdtrain.train.user_code import Data


def train(job: Job) -> dict[str, Any]:
    """Train, and return the summary that was written.

    Raises:
        HvdtrainError: On all ranks alike, with the exit code that says what happened.
    """
    began = time.time()
    plan = job.plan
    data, model = agreed(job.comm, lambda: prepare(job))
    hint = small_batch_hint(model, plan.batch_size_per_replica)
    if hint and plan.num_replicas > 1:
        job.console.say(f"warning: {hint}")
    found, complaints = newest_checkpoint(job)
    for complaint in complaints:
        job.console.say(f"warning: damaged checkpoint passed over: {complaint}")
    epochs_done, steps_done = position(found)
    if found is None:
        agreed(job.comm, lambda: initial_weights.load(job, model))
    if found:
        within = f" and {steps_done} of {plan.steps_per_epoch} steps" if steps_done else ""
        job.console.say(f"resuming after epoch {epochs_done}{within} (step {found.step})")
    if job.comm.rank == 0:
        job.run.exit.unlink(missing_ok=True)
    job.write(
        "start",
        num_ranks=plan.num_ranks,
        num_replicas=plan.num_replicas,
        initial_epoch=epochs_done,
        initial_steps=steps_done,
    )
    order = training_order(job)
    batches = training_batches(job, data, order)
    proof = SyncProof(job.comm, plan.config["sync"]["check_every_steps"])
    record = Record(plan, job.console, job.write, steps_done=steps_done, progress=job.show_progress)
    test = test_part(job, data)
    with open_board(job, last_step=found.step if found else 0) as board:
        fit(job, model, order, batches, test, found, proof, record, board)
        show_worst(job, model, board, test)
    if not record.last_logs:  # resumed after the last epoch: nothing was left but this end
        record.last_logs = records.last_epoch_metrics(job.run.metrics)
    job.comm.gather_json("done", name="barrier")  # nobody leaves while rank 0 still writes
    summary = summarise(job, model, record, proof, seconds=time.time() - began)
    if job.comm.rank == 0:
        write_text(job.run.summary, json.dumps(summary, indent=1) + "\n")
        job.write("end", **{key: summary[key] for key in ("epochs", "step", "digest", "seconds")})
        write_text(job.run.finished, "")
    return summary


def training_order(job: Job) -> Order:
    """Return which examples this replica sees at which step."""
    plan, comm = job.plan, job.comm
    divide = plan.config["data"]["epoch_splitting"] == "divide"
    return Order(
        num_examples=plan.num_examples,
        examples_per_step=plan.batch_size_per_replica if divide else plan.global_batch_size,
        steps_per_epoch=plan.steps_per_epoch,
        seed=plan.config["training"]["seed"],
        rank=comm.rank,
        size=comm.size,
        divide=divide,
    )


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


def test_part(job: Job, data: Data) -> EvaluationPart | None:
    """Return this rank's part of the test data, or None."""
    if data.test is None:
        return None
    batch_size = job.plan.batch_size_per_replica * job.plan.num_devices
    return evaluation_part(data.test, batch_size=batch_size, rank=job.comm.rank, size=job.comm.size)


def fit(
    job: Job,
    model: keras.Model,
    order: Order,
    batches: Any,
    test: EvaluationPart | None,
    found: checkpoint.Checkpoint | None,
    proof: SyncProof,
    record: Record,
    board: Board | None,
) -> None:
    """Run Keras's own fit with the callbacks that keep ranks together."""
    plan = job.plan
    epochs_done, steps_done = position(found)
    lead = LeadTime(plan.config["slurm"]["stop_lead_s"], job.console.say)

    def prove() -> None:
        lead.save_begins()
        proof.check()

    def saved(path: Path) -> None:
        lead.save_ends()
        job.write("checkpoint", path=path.name)

    speed = Speed(job.comm, watch_exposed(reduction_of(model)), batch_size=order.own_batch_size, steps_done=steps_done)
    put_back = (lambda model: restore(model, found)) if found else None
    saver = Saver(
        job.comm,
        job.run.checkpoints,
        every_epochs=plan.config["checkpoint"]["every_epochs"],
        every_steps=plan.config["checkpoint"]["every_steps"],
        prove=prove,
        keep=plan.config["checkpoint"]["keep"],
        state={"plan_digest": plan.digest(), "global_batch_size": plan.global_batch_size},
        found=found,
        on_saved=saved,
    )
    is_epochs = isinstance(batches, EpochBatches)
    try:
        model.fit(
            batches.dataset() if is_epochs else batches,
            epochs=plan.epochs,
            initial_epoch=epochs_done,
            validation_data=test.batches if test else None,
            verbose=0,
            callbacks=[
                Setup(job.comm, restore=put_back, facts={"plan digest": plan.digest()}),
                WeighUneven(job.comm, order, steps_done=steps_done),
                *([TellEpoch(batches)] if is_epochs else []),
                *([Resume(job.comm, found)] if found else []),
                speed,
                GlobalMetrics(job.comm, passenger=speed),
                Finite(job.comm, say=job.console.say),
                proof,
                record,
                *shown(job, model, board, speed, batches),
                *timelines(job, model),
                AgreeStop(job.comm),
                *([StopAtStep(plan.total_steps, plan.steps_per_epoch)] if plan.config["training"]["steps"] else []),
                saver,
                *([lead] if job.is_batch and plan.config["slurm"]["stop_lead_s"] else []),
                *interrupts(job, saver, steps_done=steps_done),
            ],
        )
    except StoppedError:
        saver.on_train_end()  # Keras calls no callback any more
        raise


def timelines(job: Job, model: keras.Model) -> list[Timeline]:
    """Return what records some steps, if it is asked for."""
    wanted = job.plan.config["timeline"]
    if wanted is None:
        return []
    steps = {"first": wanted["first_step"], "last": wanted["last_step"]}
    per_execution = model.steps_per_execution
    return [Timeline(job.comm, job.run.timeline, **steps, steps_per_execution=per_execution, say=job.console.say)]


def interrupts(job: Job, saver: Saver, *, steps_done: int) -> list[Interrupt]:
    """Return what stops a run that is limited in time, or that a batch script watches over."""
    training = job.plan.config["training"]
    reasons: list[Reason] = []
    if training["max_minutes"] is not None:
        reasons.append(time_is_over(training["max_minutes"], job.began))
    if job.is_batch:
        reasons += [lambda: next(iter(job.told), None), stop_file(job.run.stop)]
    if not reasons:
        return []
    return [
        Interrupt(
            job.comm,
            lambda: next(filter(None, (reason() for reason in reasons)), None),
            save=saver.save,
            steps_done=steps_done,
            steps_per_update=training["gradient_accumulation_steps"],
        )
    ]


def position(found: checkpoint.Checkpoint | None) -> tuple[int, int]:
    """Return (epochs, steps of the next one) that a checkpoint has behind it."""
    return found.position if found else (0, 0)


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
    restore_final(model, found)
    test = test_part(job, data)
    if test is None:
        raise UserCodeError(f"{job.plan.config['data']['source']} returns no test data to evaluate on")
    model.evaluate(test.batches, verbose=0)
    results = global_results(model, job.comm, counts=test.counts)
    return {"run": str(job.run.path), "step": found.step, "metrics": results}
