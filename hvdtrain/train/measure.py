"""How fast a run trains, instead of training it to the end: `measurement.json`, from which studies are made.

Training is `fit` as `trainer` has it, without evaluation and checkpoints.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import keras
import tensorflow as tf

from hvdtrain.rundir import write_text
from hvdtrain.train import compat, flops
from hvdtrain.train.agree import agreed
from hvdtrain.train.bench.allreduce import sweep
from hvdtrain.train.bench.memory import peak_rss_mb
from hvdtrain.train.callbacks import AgreeStop, Finite, GlobalMetrics, Setup, SyncProof, TellEpoch, WeighUneven
from hvdtrain.train.callbacks.meter import Meter
from hvdtrain.train.callbacks.record import Record
from hvdtrain.train.console import Console
from hvdtrain.train.data import EpochBatches
from hvdtrain.train.examples import training_batches, training_order
from hvdtrain.train.job import Job, prepare
from hvdtrain.train.made_up import made_up
from hvdtrain.train.probes import make_probes
from hvdtrain.train.stand_in import settle

ENDLESS = 1_000_000
MEASUREMENT_SCHEMA = 1
SWEEP_SIZES = tuple(2**power for power in range(10, 27, 2))  # 1 KiB to 64 MiB
SWEEP_S = 0.05


def measure(job: Job) -> dict[str, Any]:
    """Train until enough has been timed, and return what rank 0 wrote.

    Raises:
        HvdtrainError: On all ranks alike.
    """
    plan = job.plan
    settings = plan.config["measure"]
    data, model = agreed(job.comm, lambda: prepare(job))
    settle(job, data)
    if settings["data"] == "synthetic":
        data = agreed(job.comm, lambda: made_up(model, plan))
    order = training_order(job, data)
    batches = training_batches(job, data, order)
    is_epochs = isinstance(batches, EpochBatches)
    dataset = batches.dataset() if is_epochs else batches
    has_parts = settings["parts"]
    first = first_batch(dataset) if has_parts else None
    operations = flops.flop_per_step(model, first) if first is not None else None
    job.write("start", num_ranks=plan.num_ranks, num_replicas=plan.num_replicas, initial_epoch=0, initial_steps=0)
    has_probes = has_parts and plan.strategy != "mirrored"
    probes = make_probes(model, dataset, plan.steps_per_execution) if has_probes else {}
    meter = Meter(
        job.comm,
        probes,
        warmup_steps=settings["warmup_steps"],
        seconds=settings["seconds"],
        steps_per_execution=plan.steps_per_execution,
    )
    record = Record(plan, Console(None, has_bar=False), job.write, progress=job.show_progress)
    began = time.time()
    model.fit(
        dataset,
        epochs=ENDLESS,
        verbose=0,
        callbacks=[
            Setup(job.comm, facts={"plan digest": plan.digest()}),
            WeighUneven(job.comm, order),
            *([TellEpoch(batches)] if is_epochs else []),
            GlobalMetrics(job.comm),
            Finite(job.comm, say=job.console.say),
            SyncProof(job.comm, plan.config["sync"]["check_every_steps"]),
            record,
            AgreeStop(job.comm),
            meter,
        ],
    )
    peak_mb = peak_rss_mb()  # of training, before large buffers are swept
    is_swept = has_parts and job.comm.size > 1
    allreduce = sweep(job.comm, SWEEP_SIZES, seconds=SWEEP_S, num_trials=3) if is_swept else None
    peak = flops.peak_flop_per_s() if has_parts else 0.0  # all ranks at once, as in training
    ranks = job.comm.gather_json(rank_row(job, meter, peak, peak_mb), name="measurement")
    found = {
        "schema": MEASUREMENT_SCHEMA,
        "name": plan.name,
        "strategy": plan.strategy,
        "num_ranks": plan.num_ranks,
        "num_replicas": plan.num_replicas,
        "num_nodes": len({row["host"] for row in ranks}),
        "cores_per_rank": plan.cores_per_rank,
        "global_batch_size": plan.global_batch_size,
        "batch_size_per_replica": plan.batch_size_per_replica,
        "steps_per_execution": plan.steps_per_execution,
        "segment_steps": meter.segment_steps,
        "data": settings["data"],
        "parameters": model.count_params(),
        "gradients": gradient_sizes(model),
        "flop_per_example": operations / plan.batch_size_per_replica if operations else None,
        "allreduce": allreduce,
        "start_up_s": round(record.first_step_time - began, 3),
        "time": began,
        "ranks": ranks,
    }
    if job.comm.rank == 0:
        write_text(job.run.measurement, json.dumps(found) + "\n")
        write_text(job.run.finished, "")
    job.comm.gather_json("written", name="barrier")
    return found


def first_batch(dataset: Any) -> Any:
    """Return one batch of what `fit` iterates over; None if that would use it up."""
    return next(iter(dataset)) if isinstance(dataset, tf.data.Dataset) else None


def gradient_sizes(model: keras.Model) -> list[dict[str, Any]]:
    """Return name and bytes of every gradient, from the first layer to the last."""
    return [
        {"name": variable.path, "bytes": compat.raw(variable).dtype.size * int(variable.value.shape.num_elements())}
        for variable in model.trainable_variables
    ]


def rank_row(job: Job, meter: Meter, peak: float, peak_mb: float) -> dict[str, Any]:
    """Return what this rank found."""
    gpus = tf.config.list_logical_devices("GPU")
    memory = tf.config.experimental.get_memory_info("GPU:0") if gpus else None
    return {
        "rank": job.comm.rank,
        "host": socket.gethostname(),
        "cores": sorted(os.sched_getaffinity(0)),
        "cpu_share": round(meter.cpu_share, 3),
        "peak_rss_mb": round(peak_mb, 1),
        "gpu_peak_mb": round(memory["peak"] / 2**20, 1) if memory else None,
        "peak_flop_per_s": peak,
        "cycles": meter.cycles,
    }
