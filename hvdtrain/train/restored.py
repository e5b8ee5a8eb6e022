"""A run's newest checkpoint, for everything that comes after training: evaluating, looking, predicting, exporting."""

from __future__ import annotations

import keras
import numpy as np

from hvdtrain.errors import NotFoundError, UserCodeError
from hvdtrain.train import checkpoint
from hvdtrain.train.checkpoint import Checkpoint
from hvdtrain.train.job import Job, prepare
from hvdtrain.train.stand_in import require_same_kind
from hvdtrain.train.state import restore_final
from hvdtrain.train.user_code import Data


def require_checkpoint(job: Job) -> Checkpoint:
    """Return the newest valid checkpoint of a run; damaged ones are said.

    Raises:
        NotFoundError: If there is none yet.
    """
    found, complaints = checkpoint.load_newest(job.run.checkpoints)
    for complaint in complaints:
        job.console.say(f"warning: damaged checkpoint passed over: {complaint}")
    if found is None:
        raise NotFoundError(f"{job.run.path}: no checkpoint yet; train first")
    return found


def restored(job: Job) -> tuple[Data, keras.Model, Checkpoint]:
    """Return data and model of a run, with the weights that training would have ended with at the newest checkpoint.

    Raises:
        NotFoundError: If there is no checkpoint yet.
        UserCodeError: If data or model do not work, or are of another kind than was trained on.
    """
    data, model = prepare(job)
    found = require_checkpoint(job)
    require_same_kind(job, data, found)
    restore_final(model, found)
    return data, model, found


def test_images(job: Job, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the test images and the class of each.

    Raises:
        UserCodeError: If the test data are something else.
    """
    if not isinstance(data.test, tuple) or not isinstance(data.test[0], np.ndarray) or np.ndim(data.test[1]) != 1:
        raise UserCodeError(
            f"{job.plan.config['data']['source']}: the test data must be an array of images and an array of their "
            "classes for this"
        )
    return data.test[0], np.asarray(data.test[1])
