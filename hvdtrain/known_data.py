"""How large the built-in data sets are, so that a plan can be made without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MODULE = "hvdtrain.workshop.data"
SYNTHETIC_EXAMPLES = 4096
DIGITS_TEST_EXAMPLES = 360
CLOTHES_TRAIN, CLOTHES_TEST = 60_000, 10_000
CIFAR_TRAIN, CIFAR_TEST = 50_000, 10_000
HOUSES = {"boston_housing": (404, 102), "california_housing": (16_512, 4128)}  # training, test
TEXTS = {"imdb": (25_000, 25_000), "reuters": (8982, 2246)}
KAGGLE_ROWS, KAGGLE_HELD_OUT = 42_000, 4200


class Size(NamedTuple):
    """How many training examples and classes, and how many examples the smallest class has."""

    num_examples: int
    num_classes: int
    smallest_class: int


# Data sets whose examples_per_class says how many of each class to train on.
SIZES = {
    f"{MODULE}:digits": Size(1797 - DIGITS_TEST_EXAMPLES, 10, 133),
    f"{MODULE}:mnist": Size(60_000, 10, 5421),
    f"{MODULE}:fashion_mnist": Size(CLOTHES_TRAIN, 10, 6000),
    f"{MODULE}:cifar10": Size(CIFAR_TRAIN, 10, 5000),
    f"{MODULE}:cifar100": Size(CIFAR_TRAIN, 100, 500),
}
COARSE = Size(CIFAR_TRAIN, 20, 2500)  # cifar100 with labels: coarse

ONE_SHOT = "hvdtrain.workshop.one_shot:known_classes"
# Of each digit, in the training examples of these data sets.
OF_EACH_DIGIT = {
    "digits": (149, 144, 144, 143, 148, 143, 149, 137, 133, 147),
    "mnist": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
}


def without_held_out(args: Mapping[str, Any]) -> int | None:
    """Return the training examples of the eight digits that one-shot learning begins with.

    >>> without_held_out({"held_out": [0, 1]})
    1144
    """
    sizes, held_out = OF_EACH_DIGIT.get(str(args.get("dataset", "digits"))), args.get("held_out", (8, 9))
    if sizes is None or not isinstance(held_out, (list, tuple)):
        return None
    return sum(size for digit, size in enumerate(sizes) if digit not in held_out)


def known_num_examples(source: str, args: Mapping[str, Any]) -> int | None:
    """Return the training examples of a built-in data set, or None for the user's own.

    >>> known_num_examples("hvdtrain.workshop.data:mnist", {})
    60000
    >>> known_num_examples("hvdtrain.workshop.data:mnist", {"examples_per_class": 100})
    1000
    >>> known_num_examples("hvdtrain.workshop.data:cifar100", {"labels": "coarse", "examples_per_class": 100})
    2000
    >>> known_num_examples("hvdtrain.workshop.data:imdb", {"length": 100})
    25000
    """
    if source == f"{MODULE}:synthetic":
        num_examples = args.get("num_examples", SYNTHETIC_EXAMPLES)
        return num_examples if isinstance(num_examples, int) else None
    name = source.removeprefix(f"{MODULE}:")
    if name in (sizes := HOUSES | TEXTS) and source != name:
        return sizes[name][0]
    if source == f"{MODULE}:digit_recognizer":
        return _of_kaggle(args)
    if source == ONE_SHOT:
        return without_held_out(args)
    if source not in SIZES:
        return None
    size = COARSE if args.get("labels") == "coarse" else SIZES[source]
    per_class = args.get("examples_per_class")
    if per_class is None:
        return size.num_examples
    is_possible = isinstance(per_class, int) and 1 <= per_class <= size.smallest_class
    return size.num_classes * per_class if is_possible else None


def _of_kaggle(args: Mapping[str, Any]) -> int | None:
    """Return what Kaggle's own file leaves to train on; another file has rows of its own."""
    held_out = args.get("held_out", KAGGLE_HELD_OUT)
    if args.get("path") is not None or not isinstance(held_out, int):
        return None
    return KAGGLE_ROWS - held_out


def smallest_class(source: str) -> int:
    """Return how many training examples the smallest class of a built-in data set has.

    >>> smallest_class("hvdtrain.workshop.data:digits")
    133
    """
    return SIZES[source].smallest_class
