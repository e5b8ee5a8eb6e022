"""What a run shows in TensorBoard, put together: rank 0's board, and the callbacks that fill it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from hvdtrain.errors import StoppedError
from hvdtrain.hparams import hyperparameters
from hvdtrain.train import events
from hvdtrain.train.board import EPOCHS, Board
from hvdtrain.train.callbacks.curves import Curves
from hvdtrain.train.callbacks.graph import Graph
from hvdtrain.train.callbacks.histograms import Histograms
from hvdtrain.train.callbacks.inputs import Inputs
from hvdtrain.train.callbacks.profile import Profile
from hvdtrain.train.callbacks.speed import Speed
from hvdtrain.train.data import EpochBatches, EvaluationPart
from hvdtrain.train.job import Job
from hvdtrain.train.mistakes import show_mistakes


@contextmanager
def open_board(job: Job, *, last_step: int) -> Iterator[Board | None]:
    """Give rank 0 a board with the run's hyperparameters while training goes on; None on the others.

    Args:
        job: The run.
        last_step: That training goes on from; later points of an earlier start go.
    """
    if job.comm.rank != 0:
        yield None
        return
    board = Board(job.run.tensorboard, last_step=last_step, say=job.console.say)
    if events.has_tensorboard():
        values = hyperparameters(job.plan.config)
        board.add(EPOCHS, 0, lambda: events.hyperparameters(values))
    else:
        job.console.say(
            "the package tensorboard is not installed here: curves are written, hyperparameters for its HParams are not"
        )
    try:
        yield board
    except StoppedError:  # the run is not over
        raise
    except BaseException:
        _tell_end(board, is_success=False)
        raise
    else:
        _tell_end(board, is_success=True)
    finally:
        board.close()


def _tell_end(board: Board, *, is_success: bool) -> None:
    if events.has_tensorboard():
        board.add(EPOCHS, 0, lambda: events.session_end(is_success=is_success))


def shown(job: Job, model: keras.Model, board: Board | None, speed: Speed, batches: Any) -> list[Any]:
    """Return the callbacks that fill rank 0's board, in their order; none on other ranks."""
    if board is None:
        return []
    wanted, say = job.plan.config["tensorboard"], job.console.say
    curves = Curves(
        board, speed, global_batch_size=job.plan.global_batch_size, every_steps=wanted["scalars_every_steps"]
    )
    found: list[keras.callbacks.Callback] = [curves]
    if wanted["graph"] and board.last_step == 0:  # else the run has it already
        found.append(Graph(board, say))
    if wanted["histograms_every_epochs"]:
        found.append(Histograms(board, wanted["histograms_every_epochs"]))
    if wanted["images"] and isinstance(batches, EpochBatches):
        found.append(Inputs(board, batches, wanted["images"]))
    elif wanted["images"]:
        say("no training inputs are shown: a tf.data.Dataset that is read once more may go on in another order")
    if wanted["profile_steps"]:
        first, last = wanted["profile_steps"]
        steps = {"first": first, "last": last, "steps_per_execution": model.steps_per_execution}
        found.append(Profile(board.folder / EPOCHS, **steps, say=say))
    return found


def show_worst(job: Job, model: keras.Model, board: Board | None, test: EvaluationPart | None) -> None:
    """Show the trained model's worst mistakes, if images are asked for. A collective then."""
    number = job.plan.config["tensorboard"]["images"]
    if not number or test is None:
        return
    why = show_mistakes(model, test, job.comm, board, number)
    if why:
        job.console.say(f"no mistakes are shown: {why}")
