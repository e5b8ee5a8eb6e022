"""What several benchmarks take on their command lines."""

from __future__ import annotations

import argparse


def numbers(text: str) -> tuple[int, ...]:
    """Return numbers of ranks from a list with commas.

    >>> numbers("1,2")
    (1, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"numbers of at least 1 with commas between them, such as 1,2; got {text!r}")
    return tuple(map(int, parts))
