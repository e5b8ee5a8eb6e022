"""`hvdtrain export --format html`: the page computes what Keras computes, and shows it, in a real browser."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from hvdtrain.errors import UserCodeError
from hvdtrain.train.demo import write_page
from hvdtrain.workshop import compact, models
from hvdtrain.workshop.data import digits
from tests.browser import find_browser, open_page
from tests.conftest import PROJECT, missing

NUM = 100


@pytest.fixture(autouse=True)
def browser():
    if find_browser() is None:
        missing("browser", "there is no Chromium")


def images_of(shape):
    """Return test digits in the shape of a model's input."""
    (_, _), (x, _) = digits()
    x = x[:NUM]
    if shape[0] == 28:
        x = np.pad(np.kron(x, np.ones((1, 3, 3, 1), "float32")), ((0, 0), (2, 2), (2, 2), (0, 0)))
    elif shape[1] == 11:
        x = np.pad(x, ((0, 0), (0, 0), (2, 1), (0, 0)), mode="edge")
    return x.reshape(len(x), *shape)


def lively(model):
    """Return the model with values in its statistics and biases that make a difference."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(random.uniform(0.2, 0.8, weight.shape))
    return model


def answers(page, images):
    """Return what the page makes of images: (images, classes)."""
    values = json.dumps([[round(float(value), 7) for value in image.ravel()] for image in images])
    script = f"<pre id='answers'></pre><script>document.getElementById('answers').textContent = JSON.stringify({values}"
    script += ".map(values => [...run(values).at(-1).data]));</script></body>"
    page.write_text(page.read_text().replace("</body>", script))
    opened = open_page(page, "#answers")
    assert opened.console == []
    return np.array(json.loads(opened.items[0]["text"]))


def pooled():
    """Everything that the workshop's models do not have."""
    return keras.Sequential(
        [
            layers.Input((8, 11, 1)),
            layers.Cropping2D(((0, 0), (2, 1))),
            layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(scale=False),
            layers.ReLU(),
            layers.AveragePooling2D(3, strides=1, padding="same"),
            layers.Conv2D(5, (1, 2), activation="tanh"),
            layers.GaussianNoise(0.1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(6, activation="sigmoid", use_bias=False),
            layers.BatchNormalization(center=False),
            layers.Dense(10),
            layers.Softmax(),
        ]
    )


@pytest.mark.parametrize(
    "make",
    [models.digits_cnn, models.cnn_batch_norm, models.fully_connected, compact.five_by_five, pooled],
    ids=lambda make: make.__name__,
)
def test_the_page_answers_as_keras_does(make, tmp_path):
    keras.utils.set_random_seed(4)
    model = lively(make())
    write_page(model, tmp_path / "demo.html")
    images = images_of(model.input_shape[1:])
    expected = model.predict(images, verbose=0)
    assert expected.max(1).min() > 0.1
    found = answers(tmp_path / "demo.html", images)
    assert found.shape == (NUM, 10)
    assert np.abs(found - expected).max() < 1e-5


def test_a_run_becomes_a_page_that_draws_its_layers(tmp_path):
    config = PROJECT / "configs" / "digits_cnn.yaml"
    words = [sys.executable, "-m", "hvdtrain"]
    train = [*words, "run", str(config), "--ranks", "1", "--set", "training.epochs=6"]
    subprocess.run(train, cwd=tmp_path, capture_output=True, check=True)
    run = next(tmp_path.glob("runs/*/*/summary.json")).parent
    result = subprocess.run(
        [*words, "export", str(run), "--format", "html", "--output", "demo.html"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    page = tmp_path / "demo.html"
    assert "http" not in page.read_text(), "it needs nothing from anywhere"
    opened = open_page(page, "canvas.map, #first, #second, .fill")
    assert opened.console == []
    by_id = {item["id"]: item for item in opened.items if item["id"]}
    assert by_id["first"]["text"].isdigit()
    assert by_id["first"]["text"] != by_id["second"]["text"]
    bars = [item["width"] for item in opened.items if item["height"] == pytest.approx(12.8, abs=0.5)]
    assert bars.index(max(bars)) == int(by_id["first"]["text"]), "the longest bar is the first guess"
    assert max(bars) > 50
    maps = [item for item in opened.items if not item["id"] and item["width"] not in bars]
    assert len(maps) == 8, "a map for each layer that computes"
    assert all(item["width"] > 20 and item["height"] > 5 for item in maps)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: keras.Sequential([layers.Input((8, 8, 3)), layers.Flatten()]), "images of 3 channels"),
        (lambda: keras.Sequential([layers.Input((8, 8, 1)), layers.SeparableConv2D(3, 2)]), "SeparableConv2D"),
        (lambda: keras.Sequential([layers.Input((8, 8, 1)), layers.Dense(3, activation="gelu")]), "activation is gelu"),
        (lambda: keras.Sequential([layers.Input((8, 8, 1)), layers.ReLU(max_value=6.0)]), "a ReLU with options"),
        (lambda: keras.Model(x := layers.Input((8, 8, 1)), layers.Add()([x, layers.ReLU()(x)])), "one straight line"),
        (lambda: keras.Model(x := layers.Input((8, 8, 1)), [y := layers.ReLU()(x), layers.ReLU()(y)]), "straight"),
        (lambda: keras.Model(x := layers.Input((8, 8, 1)), layers.Flatten()(keras.ops.exp(x))), r"\(Exp\)"),
        (lambda: keras.Model(x := layers.Input((8, 8, 1)), layers.ReLU()(keras.ops.unstack(x, axis=1)[0])), "Unstack"),
        (lambda: keras.Sequential([layers.Input((8,)), layers.Dense(3)]), "a model that takes images"),
    ],
)
def test_what_a_page_cannot_show_is_said(model, words, tmp_path):
    with pytest.raises(UserCodeError, match=words):
        write_page(model(), tmp_path / "demo.html")
    assert not list(tmp_path.iterdir())
