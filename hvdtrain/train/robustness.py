"""How a trained classifier does on test images that were changed as augmentation changes training images."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.study.robustness import CHANGED
from hvdtrain.train.augment import with_changes
from hvdtrain.train.job import Job
from hvdtrain.train.restored import restored, test_images
from hvdtrain.workshop.augmentation import keys_of

SEED = 2**31  # no run's: seeds are below
BATCH = 500


def robustness(job: Job) -> dict[str, Any]:
    """Return the accuracy of the newest checkpoint on each changed test set: the same changes for every run.

    Raises:
        NotFoundError: If there is no checkpoint yet.
        UserCodeError: If the test data are not images with one class each.
    """
    data, model, found = restored(job)
    images, labels = test_images(job, data)
    accuracies = {one.name: _accuracy(model, images, labels, dict(one.settings)) for one in CHANGED}
    return {"run": str(job.run.path), "name": job.plan.name, "step": found.step, "accuracy": accuracies}


def _accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray, settings: dict[str, float]) -> float:
    right = 0
    for begin in range(0, len(images), BATCH):
        part = tf.convert_to_tensor(images[begin : begin + BATCH])
        if settings:
            keys = keys_of(SEED, 0, tf.range(begin, begin + len(part), dtype=tf.int64))
            part = with_changes(part, keys, settings)
        seen = np.asarray(model.predict_on_batch(part)).argmax(-1)
        right += int((seen == labels[begin : begin + BATCH]).sum())
    return right / len(images)
