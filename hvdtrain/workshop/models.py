"""The workshop's models. Each function returns a Keras model that is not yet compiled."""

from __future__ import annotations

import keras
from keras import layers


def fully_connected(
    units: tuple[int, ...] = (64, 64), input_shape: tuple[int, ...] = (28, 28), num_classes: int = 10
) -> keras.Model:
    """Return the fully connected network: 64-64 has 55,050 parameters on 28 x 28 images."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Flatten(),
            *[layers.Dense(width, activation="relu") for width in units],
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def dense_dropout(
    units: int = 64, dropout: float = 0.2, input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10
) -> keras.Model:
    """Return one layer of units with dropout: the network whose settings the workshop searches."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Flatten(),
            layers.Dense(units, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def cnn_one(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Return the network with one convolution, 542,230 parameters on 28 x 28 images."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(100, activation="relu"),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def cnn_two(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Return the network with two convolutions, 1,199,882 parameters on 28 x 28 images."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def cnn_dropout(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Return the workshop's best model: two convolutions with dropout of a quarter and a half."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def torch_example(mean: float = 0.1307, deviation: float = 0.3081, num_classes: int = 10) -> keras.Model:
    """Return the network of PyTorch's basic MNIST example, which is `cnn_dropout` with PyTorch's initial values.

    PyTorch draws weights and biases evenly between plus and minus 1 / sqrt(inputs of a unit), and the example brings
    pixels to mean 0 and deviation 1.
    """

    def initial(num_inputs: int) -> dict[str, keras.initializers.Initializer]:
        limit = num_inputs**-0.5
        return {
            "kernel_initializer": keras.initializers.RandomUniform(-limit, limit),
            "bias_initializer": keras.initializers.RandomUniform(-limit, limit),
        }

    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / deviation, -mean / deviation),
            layers.Conv2D(32, 3, activation="relu", **initial(9)),
            layers.Conv2D(64, 3, activation="relu", **initial(9 * 32)),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu", **initial(9216)),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax", **initial(128)),
        ]
    )


def cnn_batch_norm(input_shape: tuple[int, ...] = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """Return the network with two convolutions and batch normalisation in place of dropout, 1,200,778 parameters."""
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def digits_cnn(num_classes: int = 10) -> keras.Model:
    """Return a small network for the 8 x 8 digits, with batch normalisation and dropout."""
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
