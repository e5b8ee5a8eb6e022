"""The workshop's data sets. Each function returns ((x_train, y_train), (x_test, y_test)) as NumPy arrays.

Those that end in _inputs make a network's inputs of raw rows, for `hvdtrain predict` (data.inputs).
"""

from hvdtrain.workshop.data.cifar import cifar10, cifar100
from hvdtrain.workshop.data.grey import digits, fashion_mnist, mnist, synthetic
from hvdtrain.workshop.data.houses import (
    boston_housing,
    boston_housing_inputs,
    california_housing,
    california_housing_inputs,
)
from hvdtrain.workshop.data.kaggle import digit_recognizer, digit_recognizer_inputs
from hvdtrain.workshop.data.texts import imdb, reuters

__all__ = [
    "boston_housing",
    "boston_housing_inputs",
    "california_housing",
    "california_housing_inputs",
    "cifar10",
    "cifar100",
    "digit_recognizer",
    "digit_recognizer_inputs",
    "digits",
    "fashion_mnist",
    "imdb",
    "mnist",
    "reuters",
    "synthetic",
]
