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
from hvdtrain.train.agree import agreed
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
from hvdtrain.train.callbacks.interrupt import Interrupt, Reason, StopAfterEpoch, after_epochs, stop_file, time_is_over
from hvdtrain.train.callbacks.lead_time import LeadTime
from hvdtrain.train.callbacks.record import Record, StopAtStep
from hvdtrain.train.callbacks.speed import Speed
from hvdtrain.train.callbacks.timeline import Timeline
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.examples import Examples, examples_of, test_part
from hvdtrain.train.exposed import watch_exposed
from hvdtrain.train.job import Job, prepare
from hvdtrain.train.optimizer import reduction_of
from hvdtrain.train.restored import restored
from hvdtrain.train.stand_in import require_same_kind, settle
from hvdtrain.train.state import restore
from hvdtrain.train.sync_batch_norm import small_batch_hint
from hvdtrain.train.tensorboard import open_board, show_worst, shown


def train(job: Job) -> dict[str, Any]:
    """Train, and return the summary that was written.

    Raises:
        HvdtrainError: On all ranks alike, with the exit code that says what happened.
    """
    began = time.time()
    plan = job.plan
    data, model = agreed(job.comm, lambda: prepare(job))
    settle(job, data)
    hint = small_batch_hint(model, plan.batch_size_per_replica)
    if hint and plan.num_replicas > 1:
        job.console.say(f"warning: {hint}")
    found, complaints = newest_checkpoint(job)
    for complaint in complaints:
        job.console.say(f"warning: damaged checkpoint passed over: {complaint}")
    require_same_kind(job, data, found)
    epochs_done, steps_done = position(found)
    if found is None:
        agreed(job.comm, lambda: initial_weights.load(job, model))
    if found:
        within = f" and {steps_done} of {plan.steps_per_epoch} steps" if steps_done else ""
        job.console.say(f"resuming after epoch {epochs_done}{within} (step {found.step})")
    if job.comm.rank == 0:
        job.run.exit.unlink(missing_ok=True)
    stop_after = plan.config["training"]["stop_after_epochs"]
    if stop_after is not None and stop_after <= epochs_done < plan.epochs:
        raise StoppedError(after_epochs(stop_after))
    job.write(
        "start",
        num_ranks=plan.num_ranks,
        num_replicas=plan.num_replicas,
        initial_epoch=epochs_done,
        initial_steps=steps_done,
    )
    examples = examples_of(job, data)
    proof = SyncProof(job.comm, plan.config["sync"]["check_every_steps"])
    record = Record(plan, job.console, job.write, steps_done=steps_done, progress=job.show_progress)
    with open_board(job, last_step=found.step if found else 0) as board:
        fit(job, model, examples, found, proof, record, board)
        show_worst(job, model, board, examples.held_out)
    if not record.last_logs:  # resumed after the last epoch: nothing was left but this end
        record.last_logs = records.last_epoch_metrics(job.run.metrics)
    job.comm.gather_json("done", name="barrier")  # nobody leaves while rank 0 still writes
    summary = summarise(job, model, record, proof, seconds=time.time() - began)
    summary["stand_in_for"] = data.stands_in_for
    if job.comm.rank == 0:
        write_text(job.run.summary, json.dumps(summary, indent=1) + "\n")
        job.write("end", **{key: summary[key] for key in ("epochs", "step", "digest", "seconds")})
        write_text(job.run.finished, "")
    return summary


def fit(
    job: Job,
    model: keras.Model,
    examples: Examples,
    found: checkpoint.Checkpoint | None,
    proof: SyncProof,
    record: Record,
    board: Board | None,
) -> None:
    """Run Keras's own fit with the callbacks that keep ranks together."""
    plan, order, batches, test = job.plan, examples.order, examples.batches, examples.held_out
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
        state={
            "plan_digest": plan.digest(),
            "global_batch_size": plan.global_batch_size,
            "stand_in": examples.is_stand_in,
        },
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
                *stops(job, saver),
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


def stops(job: Job, saver: Saver) -> list[StopAfterEpoch]:
    """Return what ends this start of the run after some epochs."""
    num_epochs = job.plan.config["training"]["stop_after_epochs"]
    return [] if num_epochs is None else [StopAfterEpoch(num_epochs, save=saver.save)]


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
        "num_validation": job.plan.num_validation,
        "rank0_only_metrics": local_only(model) if job.comm.size > 1 else [],
        "metrics": record.last_logs,
        "first_step_time": record.first_step_time,
        "checkpoint": newest[0].name if newest else None,
        "seconds": round(seconds, 3),
    }


def evaluate(job: Job) -> dict[str, Any]:
    """Return the metrics of the run's newest checkpoint on its test data.

    Raises:
        UserCodeError: If the data source has no test data.
        NotFoundError: If the run has no checkpoint yet.
    """
    data, model, found = restored(job)
    test = test_part(job, data)
    if test is None:
        raise UserCodeError(f"{job.plan.config['data']['source']} returns no test data to evaluate on")
    model.evaluate(test.batches, verbose=0)
    results = global_results(model, job.comm, counts=test.counts)
    return {"run": str(job.run.path), "step": found.step, "metrics": results, "stand_in_for": data.stands_in_for}
