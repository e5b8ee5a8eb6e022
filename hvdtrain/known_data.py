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
