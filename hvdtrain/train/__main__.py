"""The worker's command: `python -m hvdtrain.train RUN_DIR [--evaluate | --check | ...]`, started once per rank."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from pathlib import Path
from typing import Any

from hvdtrain.errors import ExitCode, NotFoundError, StoppedError
from hvdtrain.launch.rank import rank_info
from hvdtrain.plan import Plan
from hvdtrain.rundir import RunDir, read_json, write_text
from hvdtrain.train.console import Console, redirect_to_log
from hvdtrain.train.failure import fail, forget_earlier_failure
from hvdtrain.train.world import World, wake_up

# What workers can do instead of training.
INSTEAD = ("evaluate", "robustness", "check", "look", "preview", "export", "predict")


def main() -> None:
    """Do this rank's part; any error ends the process with the code that says what happened."""
    arguments = parse()
    run = RunDir(arguments.run_dir)
    if not trains(arguments):
        run = run.aside()
    rank = 0
    stream = None
    try:
        rank = rank_info(os.environ).rank
        run.logs.mkdir(parents=True, exist_ok=True)
        forget_earlier_failure(run.failure(rank))
        stream = redirect_to_log(run.log(rank), is_rank0=rank == 0)
        progress = os.environ.get("HVDTRAIN_PROGRESS")
        speaks = rank == 0 and progress != "quiet"
        code = work(run, arguments, Console(stream if speaks else None, has_bar=progress == "bar"))
    except BaseException as error:
        fail(error, rank=rank, record=run.failure(rank), console=stream)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m hvdtrain.train", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", type=Path, metavar="RESULT", help="evaluate the newest checkpoint into a JSON file")
    what.add_argument("--robustness", type=Path, metavar="RESULT", help="accuracy on changed test images, into JSON")
    what.add_argument("--check", action="store_true", help="build the model and load the data, then stop")
    what.add_argument("--look", type=Path, metavar="RESULT", help="predictions, images and filters into an .npz file")
    what.add_argument("--preview", type=Path, metavar="RESULT", help="augmented images into an .npz file")
    what.add_argument("--export", type=Path, metavar="RESULT", help="export the newest checkpoint, and say how in JSON")
    what.add_argument("--predict", type=Path, metavar="RESULT", help="predict for --input, and say how in JSON")
    parser.add_argument("--input", type=Path, help="inputs to predict for")
    parser.add_argument("--header", default="ImageId,Label", help="first line of predictions in a CSV file")
    parser.add_argument("--ranks", type=int, default=1, help="ranks that predict together")
    parser.add_argument("--format", choices=("keras", "savedmodel", "weights", "html"), help="form of the export")
    parser.add_argument("--output", type=Path, help="where the export goes; what is there is replaced")
    return parser.parse_args()


def trains(arguments: argparse.Namespace) -> bool:
    """Tell whether this worker trains, or does something instead."""
    return not any(getattr(arguments, name) for name in INSTEAD)


def work(run: RunDir, arguments: argparse.Namespace, console: Console) -> int:
    """Read the plan, wake up, do what was asked, and return the exit code."""
    if not run.plan.is_file():
        raise NotFoundError(f"{run.path}: no plan.json, so this is not a run directory")
    plan = Plan.read(run.plan)
    if run.finished.exists() and trains(arguments):
        console.say(f"{run.path} is finished; nothing is left to train")
        return int(ExitCode.OK)
    if plan.config["timeline"]:
        os.environ["HOROVOD_TIMELINE"] = "DYNAMIC"  # Horovod looks for it when it wakes up
    world = wake_up(
        os.environ,
        num_ranks=plan.num_ranks if trains(arguments) else arguments.ranks,
        is_deterministic=plan.config["training"]["deterministic"],
        meet_in=run.path,
        cores_alone=plan.config["launch"]["cores_per_rank"],
    )
    from hvdtrain.train.job import Job

    folder = Path(read_json(run.origin).get("folder", "."))
    job = Job(plan=plan, run=run, folder=folder, comm=world.comm, console=console, is_batch=is_batch())
    if job.is_batch and not plan.config["measure"]:  # a measurement has no state to save
        listen(job)
    code = int(ExitCode.OK)
    if trains(arguments):
        describe_environment(job, world)
        code = train_or_stop(job)
    else:
        work_instead(job, arguments)
    world.comm.shutdown()
    return code


def work_instead(job: Any, arguments: argparse.Namespace) -> None:
    """Do something else than training."""
    if arguments.evaluate:
        from hvdtrain.train.trainer import evaluate

        write_text(arguments.evaluate, json.dumps(evaluate(job)) + "\n")
    elif arguments.robustness:
        from hvdtrain.train.robustness import robustness

        write_text(arguments.robustness, json.dumps(robustness(job)) + "\n")
    elif arguments.look:
        from hvdtrain.train.look import look

        look(job, arguments.look)
    elif arguments.preview:
        from hvdtrain.train.augment import preview

        preview(job, arguments.preview)
    elif arguments.export:
        from hvdtrain.train.export import export

        done = export(job, kind=arguments.format, output=arguments.output)
        write_text(arguments.export, json.dumps(done) + "\n")
    elif arguments.predict:
        from hvdtrain.train.predict import predict

        done = predict(job, arguments.input, arguments.output, arguments.header)
        if job.comm.rank == 0:
            write_text(arguments.predict, json.dumps(done) + "\n")
    else:
        from hvdtrain.train import initial_weights
        from hvdtrain.train.job import prepare

        _, model = prepare(job)
        initial_weights.load(job, model)


def train_or_stop(job: Any) -> int:
    """Train or measure; return the exit code, also of a stop that was asked for, at which all ranks end together."""
    from hvdtrain.train import measure, trainer

    try:
        if job.plan.config["measure"]:
            measure.measure(job)
        else:
            trainer.train(job)
        return int(ExitCode.OK)
    except StoppedError as stop:
        job.comm.gather_json("stopped", name="barrier")
        if job.comm.rank == 0:
            write_text(job.run.exit, f"{int(stop.exit_code)}\n")  # not every launcher passes the code on
            if job.told and not job.run.stop.exists():  # the ranks alone were told, and the script must know
                write_text(job.run.stop, f"{job.told[0]}\n")
            job.console.say(f"stopped: {stop}")
        job.comm.gather_json("told", name="barrier")
        # A launcher ends the others for one rank's code, or loses it; a batch script reads the file.
        return int(ExitCode.OK) if job.is_batch else int(stop.exit_code)


def is_batch() -> bool:
    """Tell whether a batch script started this rank."""
    return os.environ.get("HVDTRAIN_BATCH") == "1"


def listen(job: Any) -> None:
    """Let SIGTERM ask for a stop, and end no rank: schedulers send it to ranks alone before they take the nodes away.

    Every rank gets it, and rank 0's counts. The handler only takes a note.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: job.told.append("the job was told to end"))


def describe_environment(job: Any, world: World) -> None:
    """Write versions, hosts, cores and devices as the ranks found them."""
    mine = {"rank": world.rank, "host": world.host, "cores": list(world.cores), "gpu": world.gpu}
    ranks = world.comm.gather_json(mine, name="environment")
    if world.rank != 0:
        return
    import keras
    import tensorflow as tf

    write_text(
        job.run.environment,
        json.dumps(
            {
                "python": platform.python_version(),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "strategy": job.plan.strategy,
                "reduction": world.reduction,
                "warnings": list(job.plan.warnings),
                "ranks": ranks,
            },
            indent=1,
        )
        + "\n",
    )


if __name__ == "__main__":
    main()
