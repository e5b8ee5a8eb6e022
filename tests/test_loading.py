"""What a training process does not load, and that it is all there for whoever asks."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("sklearn", "matplotlib.pyplot")
TRAIN = """
import sys
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


def test_training_loads_neither_scikit_learn_nor_matplotlib_and_both_are_there_when_they_are_used():
    collector = "import gc\nprint(gc.isenabled(), gc.get_freeze_count() > 100_000, gc.get_count()[2])"
    assert run(f"{START}\n{collector}{TRAIN}{USE}") == [
        "True True 0",
        "[]",
        "module 'keras.wrappers' has no attribute 'missing'",
    ]


def test_plain_keras_loads_both_and_what_a_script_has_imported_itself_is_left_alone():
    after = f"import gc; {START}; print(gc.isenabled(), gc.get_freeze_count())"
    assert run(f"{TRAIN}{after}") == [str(list(HEAVY)), "True 0"]


def test_a_keras_that_does_not_import_is_one_error_with_a_fix(tmp_path):
    (tmp_path / "keras.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    wake = f"import os, sys; sys.path.insert(0, {str(tmp_path)!r}); from hvdtrain.train.world import wake_up\n"
    said = "try: wake_up(os.environ)\nexcept Exception as error: print(type(error).__name__, error)"
    (line,) = run(wake + said)
    assert line.startswith("EnvironmentNotFitError TensorFlow or Keras does not import: libcudart.so.12")
    assert "pip install 'hvdtrain[train]'" in line
