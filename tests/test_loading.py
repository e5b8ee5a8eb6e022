"""What a training process does not load, and that it is all there for whoever asks."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("sklearn", "matplotlib.pyplot")
TRAIN = """
import sys
{start}
import keras, numpy as np, tensorflow as tf
model = keras.Sequential([keras.layers.Dense(2)])
model.compile("adam", "mse")
model.fit(np.zeros((8, 3)), np.zeros((8, 2)), verbose=0)
print([name for name in ("sklearn", "matplotlib.pyplot") if name in sys.modules])
"""
START = "from hvdtrain.train.loading import load_keras; load_keras()"
USE = """
assert "SKLearnClassifier" in dir(keras.wrappers)
assert tf.keras.wrappers.SKLearnRegressor is keras.wrappers.SKLearnRegressor
from keras.visualization import plot_image_gallery
import keras.src.visualization, inspect
assert keras.src.visualization.plot_image_gallery.plot_image_gallery is plot_image_gallery
assert inspect.getmodule(plot_image_gallery).__name__.startswith("keras.src.visualization")
assert keras.wrappers.__spec__.loader.get_filename() == keras.wrappers.__file__
try:
    keras.wrappers.missing
except AttributeError as error:
    print(error)
"""


def run(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_training_loads_neither_scikit_learn_nor_matplotlib():
    assert run(TRAIN.format(start=START)) == ["[]"]


def test_plain_keras_loads_both():
    assert run(TRAIN.format(start="")) == [str(list(HEAVY))]


def test_what_was_put_off_is_there_when_it_is_used():
    assert run(TRAIN.format(start=START) + USE)[1:] == ["module 'keras.wrappers' has no attribute 'missing'"]


def test_the_garbage_collector_has_rested_and_works_again():
    script = "import gc\n{start}\nprint(gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_count()[2])"
    assert run(script.format(start=START)) == ["True True 0"]


def test_a_collector_that_was_off_stays_off():
    assert run(f"import gc; gc.disable(); {START}; print(gc.isenabled(), gc.get_freeze_count())") == ["False 0"]
