"""A trained network as one page that runs it in the browser: draw something, and see every layer answer.

The page needs nothing but itself. Layers in one straight line are translated; what does nothing in inference is left
out, and batch normalisation becomes a factor and an offset for each channel.
"""

from __future__ import annotations

import base64
import contextlib
import json
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import keras
import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.workshop.augmentation import Augment

NOTHING_IN_INFERENCE = (
    keras.layers.InputLayer, keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise,
    keras.layers.GaussianDropout, Augment,
)  # fmt: skip
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax")
POOLS = {keras.layers.MaxPooling2D: "max", keras.layers.AveragePooling2D: "mean"}


def write_page(model: keras.Model, path: Path) -> None:
    """Write the page of a model that takes one image.

    Raises:
        UserCodeError: If it is no straight line of layers, or has one that is not translated.
    """
    template = files("hvdtrain.train").joinpath("demo.html").read_text(encoding="utf-8")
    network = json.dumps(Translation(model).network).replace("<", "\\u003c")
    path.write_text(template.replace("NETWORK_JSON", network), encoding="utf-8")


class Translation:
    """The layers of a model as plain data.

    Args:
        model: Layers in one straight line for images (height, width) or (height, width, 1).

    Attributes:
        network: `input` (height, width, channels), `layers`, and all `weights` as float32, in base64.
    """

    def __init__(self, model: keras.Model) -> None:
        self._weights: list[np.ndarray] = []
        self._count = 0
        line, shape = straight_line(model), model.input_shape
        if not isinstance(shape, tuple) or len(shape) not in (3, 4):
            raise UserCodeError(f"a page can be made of a model that takes images, not {shape}")
        size = (*shape[1:], 1) if len(shape) == 3 else shape[1:]
        if size[2] != 1:
            raise UserCodeError(f"a page draws in one colour; this model takes images of {size[2]} channels")
        layers = [self._translated(layer) for layer in line if not isinstance(layer, NOTHING_IN_INFERENCE)]
        weights = np.concatenate([np.zeros(0), *self._weights]).astype("<f4")
        self.network = {
            "input": list(size),
            "layers": layers,
            "weights": base64.b64encode(weights.tobytes()).decode("ascii"),
        }

    def _translated(self, layer: keras.layers.Layer) -> dict[str, Any]:
        units = layer.output.shape[1:]
        return {"title": f"{type(layer).__name__}, {' x '.join(map(str, units))}", **self._kind(layer)}

    def _kind(self, layer: Any) -> dict[str, Any]:
        if isinstance(layer, keras.layers.Flatten):
            return {"kind": "flatten"}
        if isinstance(layer, keras.layers.BatchNormalization):
            return {"kind": "scale", **self._norm(layer)}
        if type(layer) is keras.layers.Dense:
            return {"kind": "dense", "units": layer.units, **self._kernel(layer)}
        if type(layer) in (keras.layers.Activation, keras.layers.ReLU, keras.layers.Softmax):
            return {"kind": "activation", "activation": activation(layer)}
        is_channels_last = getattr(layer, "data_format", "") == "channels_last"
        if type(layer) is keras.layers.Cropping2D and is_channels_last:
            return {"kind": "crop", "cropping": layer.cropping}
        if type(layer) in POOLS and is_channels_last:
            shape = {"pool": layer.pool_size, "strides": layer.strides, "padding": layer.padding}
            return {"kind": POOLS[type(layer)], **shape}
        plain = type(layer) is keras.layers.Conv2D and layer.dilation_rate == (1, 1) and layer.groups == 1
        if plain and is_channels_last:
            shape = {"kernel": layer.kernel_size, "filters": layer.filters}
            return {"kind": "conv", **shape, "strides": layer.strides, "padding": layer.padding, **self._kernel(layer)}
        raise UserCodeError(f"a page cannot show layer {layer.name!r} ({type(layer).__name__}) yet")

    def _kernel(self, layer: Any) -> dict[str, Any]:
        bias = layer.bias if layer.use_bias else np.zeros(0)
        return {"activation": activation(layer), "weights": self._kept(layer.kernel), "bias": self._kept(bias)}

    def _norm(self, layer: Any) -> dict[str, Any]:
        if layer.axis not in (-1, len(layer.output.shape) - 1):
            raise UserCodeError(f"a page cannot show layer {layer.name!r}: it normalises over axis {layer.axis}")
        mean, variance = (np.asarray(value, np.float64) for value in (layer.moving_mean, layer.moving_variance))
        factor = 1 / np.sqrt(variance + layer.epsilon)
        factor = factor * np.asarray(layer.gamma, np.float64) if layer.scale else factor
        beta = np.asarray(layer.beta, np.float64) if layer.center else 0.0
        return {"factor": self._kept(factor), "offset": self._kept(beta - mean * factor)}

    def _kept(self, array: Any) -> tuple[int, int]:
        """Keep an array and return where it begins and how many values it has."""
        flat = np.asarray(array).ravel()
        place = self._count
        self._weights.append(flat)
        self._count += len(flat)
        return place, len(flat)


def straight_line(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers of a model, each of which takes what the one before it gives.

    Operations between layers are one layer if they compute what it computes, as those of `compact.pooled` do.

    Raises:
        UserCodeError: If it has branches, was not built of layers, or computes something else between them.
    """
    if isinstance(model, keras.Sequential):
        return model.layers
    refused = UserCodeError("a page can be made of a model whose layers are in one straight line, of no other yet")
    if not hasattr(model, "operations"):
        raise refused
    line: list[keras.layers.Layer] = []
    end = model.inputs[0]
    for is_layer, group in groupby(model.operations[1:], lambda operation: isinstance(operation, keras.layers.Layer)):
        operations = list(group)
        for layer in operations if is_layer else [pool_of(end, operations)]:
            if layer.input is not end:
                raise refused
            line.append(layer)
            end = layer.output
        end = operations[-1].output
    if len(model.outputs) > 1 or model.outputs[0] is not end:
        raise refused
    return line


def pool_of(images: Any, operations: list[Any]) -> keras.layers.Layer:
    """Return the pool that operations are: they are tried, on random images.

    Raises:
        UserCodeError: If they are none.
    """
    pool = keras.layers.MaxPooling2D(2)
    with contextlib.suppress(ValueError, AttributeError):  # of shapes, and of several outputs
        expected = pool(images)
        values = np.random.default_rng(0).normal(size=(2, *images.shape[1:])).astype("float32")
        found = keras.Model(images, operations[-1].output)(values)
        if found.shape[1:] == expected.shape[1:] and np.array_equal(found, keras.layers.MaxPooling2D(2)(values)):
            return pool
    names = ", ".join(dict.fromkeys(type(operation).__name__ for operation in operations))
    raise UserCodeError(f"a page cannot show what is computed between layers ({names}) yet")


def activation(layer: Any) -> str:
    """Return the name of a layer's activation.

    Raises:
        UserCodeError: If it is not translated.
    """
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, keras.layers.ReLU):
        is_plain = layer.max_value is None and not layer.negative_slope and not layer.threshold
        name = "relu" if is_plain else "a ReLU with options"
    else:
        name = getattr(layer.activation, "__name__", "unnamed")
    if name not in ACTIVATIONS:
        raise UserCodeError(f"a page cannot show layer {layer.name!r}: its activation is {name}")
    return name
