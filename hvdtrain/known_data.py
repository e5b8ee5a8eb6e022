"""How large the built-in data sets are, so that a plan can be made without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODULE = "hvdtrain.workshop.data"
SYNTHETIC_EXAMPLES = 4096
DIGITS_TEST_EXAMPLES = 360

NUM_CLASSES = 10
# source -> (training examples, those of its smallest class)
SIZES = {
    f"{MODULE}:digits": (1797 - DIGITS_TEST_EXAMPLES, 133),
    f"{MODULE}:mnist": (60_000, 5421),
}

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
    """
    if source == f"{MODULE}:synthetic":
        num_examples = args.get("num_examples", SYNTHETIC_EXAMPLES)
        return num_examples if isinstance(num_examples, int) else None
    if source == ONE_SHOT:
        return without_held_out(args)
    if source not in SIZES:
        return None
    num_examples, smallest_class = SIZES[source]
    per_class = args.get("examples_per_class")
    if per_class is None:
        return num_examples
    return NUM_CLASSES * per_class if isinstance(per_class, int) and 1 <= per_class <= smallest_class else None


def smallest_class(source: str) -> int:
    """Return how many training examples the smallest class of a built-in data set has.

    >>> smallest_class("hvdtrain.workshop.data:digits")
    133
    """
    return SIZES[source][1]
