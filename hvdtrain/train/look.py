"""What a trained classifier makes of its test images, as arrays for pictures."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from hvdtrain.train import compat
from hvdtrain.train.job import Job
from hvdtrain.train.restored import restored, test_images

NUM_WORST = 25
NUM_FILTERS = 32


def look(job: Job, output: Path) -> None:
    """Write an .npz file about the newest checkpoint of a run, whole or not at all.

    `confusion` (classes x classes, rows are true), `worst` (images of the most certain mistakes), `worst_true`,
    `worst_seen`, `worst_certainty`, `filters` (pictures of the first layer's weights), `right` (a flag per test image).

    Raises:
        NotFoundError: If there is no checkpoint yet.
        UserCodeError: If the test data are not images with one class each.
    """
    data, model, _ = restored(job)
    images, labels = test_images(job, data)
    probabilities = model.predict(images, batch_size=512, verbose=0)
    seen = probabilities.argmax(1)
    num_classes = probabilities.shape[1]
    confusion = np.bincount(labels * num_classes + seen, minlength=num_classes**2).reshape(num_classes, num_classes)
    certainty = probabilities[np.arange(len(seen)), seen]
    wrong = np.flatnonzero(seen != labels)
    worst = wrong[np.argsort(-certainty[wrong], kind="stable")][:NUM_WORST]
    temporary = output.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        confusion=confusion,
        worst=_picture(images[worst]),
        worst_true=labels[worst],
        worst_seen=seen[worst],
        worst_certainty=certainty[worst],
        filters=filters(model),
        right=seen == labels,
    )
    temporary.replace(output)


def filters(model: keras.Model) -> np.ndarray:
    """Return the first weights of a model as pictures (number, height, width): of a convolution, or of each unit."""
    for layer in compat.all_layers(model):
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.asarray(layer.kernel)  # height, width, channels, filters
            return np.moveaxis(kernel.mean(2), -1, 0)[:NUM_FILTERS]
        if isinstance(layer, keras.layers.Dense):
            kernel = np.asarray(layer.kernel)
            side = _side(model)
            return kernel.T.reshape(-1, *side)[:NUM_FILTERS] if np.prod(side) == len(kernel) else np.zeros((0, 1, 1))
    return np.zeros((0, 1, 1))


def _side(model: keras.Model) -> tuple[int, int]:
    shape = model.input_shape
    return (shape[1], shape[2]) if isinstance(shape, tuple) and len(shape) >= 3 else (0, 0)


def _picture(images: np.ndarray) -> np.ndarray:
    return images[..., 0] if images.ndim == 4 else images
