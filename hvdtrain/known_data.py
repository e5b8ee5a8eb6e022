"""How large the built-in data sets are, so that a plan can be made without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODULE = "hvdtrain.workshop.data"
SYNTHETIC_EXAMPLES = 4096
DIGITS_TEST_EXAMPLES = 360

# source -> (training examples, test examples)
SIZES = {
    f"{MODULE}:digits": (1797 - DIGITS_TEST_EXAMPLES, DIGITS_TEST_EXAMPLES),
    f"{MODULE}:mnist": (60_000, 10_000),
}


def known_num_examples(source: str, args: Mapping[str, Any]) -> int | None:
    """Return the training examples of a built-in data set, or None for the user's own.

    >>> known_num_examples("hvdtrain.workshop.data:mnist", {})
    60000
    """
    if source == f"{MODULE}:synthetic":
        num_examples = args.get("num_examples", SYNTHETIC_EXAMPLES)
        return num_examples if isinstance(num_examples, int) else None
    sizes = SIZES.get(source)
    return sizes[0] if sizes else None
