"""The compact networks: what their shortcuts stand for, and that they can be saved by Keras alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.workshop.compact import five_by_five, pooled, three_by_three


@pytest.mark.parametrize("shape", [(8, 6, 3), (7, 6, 2)], ids=["even", "odd"])
def test_pooling_and_its_gradient_are_keras_own(shape):
    image = keras.layers.Input(shape)
    ours = keras.Model(image, pooled(image))
    images = tf.constant(np.random.default_rng(0).normal(size=(4, *shape)), tf.float32)

    def both(pool):
        with tf.GradientTape() as tape:
            tape.watch(images)
            out = pool(images)
            total = tf.reduce_sum(out * tf.cos(out))
        return out.numpy(), tape.gradient(total, images).numpy()

    for mine, theirs in zip(both(ours), both(keras.layers.MaxPooling2D(2)), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("build", [five_by_five, three_by_three])
def test_what_is_cut_off_is_not_seen(build):
    model = build(crop=2)
    images = np.random.default_rng(0).random((2, 28, 28, 1)).astype("float32")
    inner = np.zeros_like(images)
    inner[:, 2:-2, 2:-2] = images[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(model(images), model(inner))
    assert np.any(np.asarray(build()(images)) != np.asarray(build()(inner)))


@pytest.mark.parametrize("build", [five_by_five, three_by_three])
@pytest.mark.parametrize("crop", [-1, 14])
def test_a_crop_that_leaves_nothing_is_explained(build, crop):
    with pytest.raises(UserCodeError, match=rf"crop must be 0 to 13 .* got {crop}"):
        build(crop=crop)


def test_keras_alone_loads_what_was_saved(tmp_path):
    model = five_by_five(crop=2)
    images = np.random.default_rng(0).random((2, 28, 28, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    program = (
        "import keras, numpy, sys\n"
        "model = keras.saving.load_model('model.keras')\n"
        "numpy.save('out.npy', model(numpy.load('images.npy')))\n"
        "assert not any(name.startswith('hvdtrain') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model(images), atol=1e-6)
