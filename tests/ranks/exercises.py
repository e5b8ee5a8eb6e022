"""Cases about the exercises: each configuration trains as a run does, on little data of its own form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from hvdtrain.config_file import load_config
from hvdtrain.facts import assumed_facts
from hvdtrain.plan import make_plan
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.train import job as jobs
from hvdtrain.train import trainer
from hvdtrain.train.comm import Comm
from hvdtrain.train.console import Console
from hvdtrain.train.job import Job
from hvdtrain.workshop import made_up
from hvdtrain.workshop.stand_in import Split, StandIn
from tests.ranks.cases import message_of

EXERCISES = Path(__file__).parents[2] / "configs" / "exercises"
NUM_TRAIN, NUM_TEST = 50, 7  # as much as an epoch of one step, and a last batch that is not whole
FORMS: dict[str, Callable[..., Split]] = {
    "boston_housing": lambda: made_up.houses(NUM_TRAIN, NUM_TEST, 13, typical_price=22.5),
    "imdb": lambda: made_up.texts(NUM_TRAIN, NUM_TEST, num_classes=2, num_words=20_000, length=400),
}


def little(form: str) -> Split:
    """Return little data of a form, as a configuration's data source."""
    return StandIn(FORMS[form](), form, "a test")


def on_some_ranks(form: str, real_on: int, rank: int) -> Split:
    """Return the real data on one rank only."""
    return FORMS[form]() if rank == real_on else little(form)


def exercise(comm: Comm, folder: Path, name: str, source: str, args: dict[str, Any]) -> Job:
    """Return this rank's part of a run of an exercise."""
    overrides = [
        f"data.source=tests.ranks.exercises:{source}",
        f"data.args={json.dumps(args)}",
        f"data.num_examples={NUM_TRAIN}",
        f"training.global_batch_size={8 * comm.size}",
        "training.epochs=2",
        "checkpoint.every_epochs=null",
        f"launch.num_ranks={comm.size}",
    ]
    config = load_config(EXERCISES / f"{name}.yaml", overrides=overrides)
    run = RunDir(folder / name)
    if comm.rank == 0:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_text(run.environment, '{"keras": "3"}')
    comm.gather_json("made", name="folder")
    plan = make_plan(config, assumed_facts())
    return Job(plan=plan, run=run, folder=folder, comm=comm, console=Console(None, has_bar=False))


def gradient_of_words(job: Job) -> str:
    """Return the kind of the first layer's gradient."""
    data, model = jobs.prepare(job)
    with tf.GradientTape() as tape:
        output = tf.reduce_sum(model(data.train[0][:2]))
    return type(tape.gradient(output, model.trainable_variables[0].value)).__name__


def case_exercises(comm: Comm, folder: Path) -> dict:
    """Train; what the summary, the run directory and an evaluation say."""
    results: dict[str, Any] = {}
    for name in FORMS:
        job = exercise(comm, folder, name, "little", {"form": name})
        summary = trainer.train(job)
        results[name] = {
            "metrics": sorted(summary["metrics"]),
            "digest": summary["digest"],
            "checks": summary["sync_checks"],
            "stand_in_for": summary["stand_in_for"],
            "environment": json.loads(job.run.environment.read_text()),
        }
    results["words"] = gradient_of_words(exercise(comm, folder, "imdb", "little", {"form": "imdb"}))
    return {**results, "later": data_that_came_later(comm, folder)}


def case_data_on_some_ranks(comm: Comm, folder: Path) -> dict:
    """Real data on one rank, and a stand-in on the others."""
    args = {"form": "boston_housing", "real_on": comm.size - 1, "rank": comm.rank}
    job = exercise(comm, folder, "boston_housing", "on_some_ranks", args)
    return {"said": message_of(lambda: trainer.train(job)), "wrote": job.run.summary.exists()}


def data_that_came_later(comm: Comm, folder: Path) -> dict:
    """The run that was trained on a stand-in, evaluated and gone on with when the real data are there."""
    form = "boston_housing"
    later = exercise(comm, folder, form, "on_some_ranks", {"form": form, "real_on": comm.rank, "rank": comm.rank})
    again = exercise(comm, folder, form, "little", {"form": form})
    return {
        "evaluate": message_of(lambda: trainer.evaluate(later)),
        "train": message_of(lambda: trainer.train(later)),
        "same": trainer.evaluate(again)["stand_in_for"],
    }
