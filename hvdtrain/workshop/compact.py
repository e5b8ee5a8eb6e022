"""Small convolutional networks, for recipes that are faster or better than taught: `configs/mnist_fast.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from hvdtrain.errors import UserCodeError


def five_by_five(
    filters: Sequence[int] = (16, 32),
    units: int = 128,
    crop: int = 0,
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    momentum: float = 0.9,
) -> keras.Model:
    """Return 5x5 convolutions without padding, each with a pool of 2 after it, and one hidden layer; logits come out.

    The pool stands before batch normalisation and ReLU, which then see a quarter of the values: as good, and faster.

    Args:
        filters: Of each convolution.
        units: Of the hidden layer.
        crop: Points to cut off at each side before the first convolution; 2 take 0.2 % of MNIST's ink.
        input_shape: Of one image.
        num_classes: Logits.
        momentum: Of batch normalisation's moving statistics: 0.9 follows a training of few steps.
    """
    images = hidden = layers.Input(tuple(input_shape))
    hidden = cropping(crop, input_shape)(hidden)
    for width in filters:
        hidden = layers.Conv2D(width, 5, use_bias=False)(hidden)
        hidden = applied(normalised_relu(momentum), pooled(hidden))
    hidden = layers.Dense(units, use_bias=False)(layers.Flatten()(hidden))
    hidden = applied(normalised_relu(momentum), hidden)
    return keras.Model(images, layers.Dense(num_classes)(hidden))


def three_by_three(
    filters: Sequence[Sequence[int]] = ((32, 32), (64, 64), (128, 128)),
    units: int = 128,
    dropout: float = 0.0,
    crop: int = 0,
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    momentum: float = 0.9,
) -> keras.Model:
    """Return blocks of 3x3 convolutions with a pool of 2 after each block, and one hidden layer; logits come out.

    After Simonyan and Zisserman 2015, with batch normalisation. The pool stands before a block's last one.

    Args:
        filters: Of each convolution, block by block.
        units: Of the hidden layer; 0: none.
        dropout: Before the logits.
        crop: Points to cut off at each side before the first convolution.
        input_shape: Of one image.
        num_classes: Logits.
        momentum: Of batch normalisation's moving statistics.
    """
    convolutions: list[Any] = []
    for block in filters:
        for place, width in enumerate(block):
            convolutions.append(layers.Conv2D(width, 3, padding="same", use_bias=False))
            if place == len(block) - 1:
                convolutions.append(layers.MaxPooling2D(2))
            convolutions += normalised_relu(momentum)
    hidden = [layers.Dense(units, use_bias=False), *normalised_relu(momentum)] if units else []
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            cropping(crop, input_shape),
            *convolutions,
            layers.Flatten(),
            *hidden,
            layers.Dropout(dropout),
            layers.Dense(num_classes),
        ]
    )


def cropping(crop: int, input_shape: Sequence[int]) -> keras.layers.Layer:
    """Return the layer that cuts points off at each side.

    Raises:
        UserCodeError: If nothing would be left.
    """
    side = min(input_shape[:2])
    if not 0 <= 2 * crop < side:
        raise UserCodeError(f"crop must be 0 to {(side - 1) // 2} for images of {tuple(input_shape)}; got {crop}")
    return layers.Cropping2D(crop)


def pooled(images: Any) -> Any:
    """Return what `MaxPooling2D(2)` does, for less time on a CPU where the sides are even.

    The gradient of TensorFlow's maximum of two tensors takes half the time of its MaxPool's.
    """
    _, height, width, channels = images.shape
    if height % 2 or width % 2:
        return layers.MaxPooling2D(2)(images)
    rows = ops.reshape(images, (-1, height // 2, 2, width * channels))
    highest = ops.maximum(*ops.unstack(rows, axis=2))
    columns = ops.reshape(highest, (-1, height // 2, width // 2, 2, channels))
    return ops.maximum(*ops.unstack(columns, axis=3))


def applied(stack: Sequence[Any], tensor: Any) -> Any:
    """Return what layers, one after the other, make of a tensor."""
    for layer in stack:
        tensor = layer(tensor)
    return tensor


def normalised_relu(momentum: float) -> list[Any]:
    """Return batch normalisation and ReLU."""
    return [layers.BatchNormalization(momentum=momentum), layers.ReLU()]
