"""`loss` and `loss_args`: Keras's losses and the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvdtrain.errors import UserCodeError

keras = pytest.importorskip("keras")

from hvdtrain.train.losses import make_loss  # noqa: E402
from hvdtrain.workshop.losses import SmoothedCrossentropy  # noqa: E402

SMOOTHED = "hvdtrain.workshop.losses:SmoothedCrossentropy"


def test_keras_name_stays_a_name():
    assert make_loss("mse", {}, Path()) == "mse"


def test_keras_name_with_arguments():
    loss = make_loss("categorical_crossentropy", {"label_smoothing": 0.2}, Path())
    assert isinstance(loss, keras.losses.CategoricalCrossentropy)
    assert loss.get_config()["label_smoothing"] == 0.2


@pytest.mark.parametrize("from_logits", [False, True])
def test_smoothed_crossentropy_is_keras_smoothing_of_one_hot(from_logits):
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(7, 5)).astype("float32"), random.integers(5, size=7)
    given = scores if from_logits else keras.ops.softmax(scores)
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=0.3, from_logits=from_logits)
    ours = make_loss(SMOOTHED, {"smoothing": 0.3, "from_logits": from_logits}, Path())
    assert float(ours(labels, given)) == pytest.approx(float(theirs(np.eye(5)[labels], given)), rel=1e-5)
    assert float(ours(labels[:, None], given)) == pytest.approx(float(ours(labels, given)))
    assert SmoothedCrossentropy.from_config(ours.get_config()).smoothing == 0.3


@pytest.mark.parametrize(
    ("loss", "args", "words"),
    [
        ("categorical_crossentropi", {"label_smoothing": 0.1}, "did you mean 'categorical_crossentropy'"),
        ("categorical_crossentropy", {"smoothing": 0.1}, "smoothing"),
        (SMOOTHED, {"smoothin": 0.1}, "smoothin"),
        (SMOOTHED, {"smoothing": 1.5}, "0 to below 1"),
        ("hvdtrain.workshop.losses:Focal", {}, "has no function 'Focal'"),
        ("os:getpid", {}, "must return a loss"),
    ],
)
def test_what_is_no_loss_is_said(loss, args, words):
    with pytest.raises(UserCodeError, match=words):
        make_loss(loss, args, Path())
