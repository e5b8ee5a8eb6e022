"""Models that fit the exercise data sets. Each function returns a Keras model that is not yet compiled."""

from __future__ import annotations

import keras
from keras import layers


def picture_cnn(input_shape: tuple[int, ...] = (32, 32, 3), num_classes: int = 10) -> keras.Model:
    """Return a network for small colour pictures: twice two convolutions and a pool, then a dense layer.

    1,250,858 parameters with ten classes: the network of Keras's own CIFAR-10 example.
    """
    return keras.Sequential(
        [
            layers.Input(tuple(input_shape)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )


def house_prices(num_features: int = 13, units: tuple[int, ...] = (64, 64), typical_price: float = 22.5) -> keras.Model:
    """Return a network for prices: what it learns is how far a house is from a typical one.

    Without the last layer the first steps would only learn that houses cost more than nothing.

    Args:
        num_features: What is known of a house.
        units: Of the hidden layers.
        typical_price: In the unit of the prices.
    """
    return keras.Sequential(
        [
            layers.Input((num_features,)),
            *[layers.Dense(width, activation="relu") for width in units],
            layers.Dense(1),
            layers.Rescaling(typical_price, offset=typical_price),
        ]
    )


def sentiment(num_words: int = 20_000, length: int = 400, embedding_size: int = 50) -> keras.Model:
    """Return a network that is for or against: the mean of a text's words, each a point, on one side or the other.

    After Joulin et al., "Bag of Tricks for Efficient Text Classification", 2016.
    """
    return keras.Sequential(
        [
            layers.Input((length,), dtype="int32"),
            layers.Embedding(num_words, embedding_size),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def topics(num_words: int = 10_000, length: int = 200, embedding_size: int = 64, num_classes: int = 46) -> keras.Model:
    """Return a network for topics: what a text's words have in common, and its most telling ones."""
    words = layers.Input((length,), dtype="int32")
    points = layers.Embedding(num_words, embedding_size)(words)
    seen = layers.Concatenate()([layers.GlobalAveragePooling1D()(points), layers.GlobalMaxPooling1D()(points)])
    hidden = layers.Dropout(0.5)(layers.Dense(128, activation="relu")(seen))
    return keras.Model(words, layers.Dense(num_classes, activation="softmax")(hidden))
