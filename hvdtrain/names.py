"""Suggesting the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest allowed name, or an empty text.

    >>> did_you_mean("epohcs", ["epochs", "steps"])
    "; did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs"])
    ''
    """
    matches = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""
