"""Work that may fail on some ranks only: all ranks go on together, or all of them stop. No TensorFlow of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hvdtrain.errors import UserCodeError
from hvdtrain.train.comm import Comm
from hvdtrain.train.failure import PeerFailedError, exit_code

T = TypeVar("T")


def agreed(comm: Comm, work: Callable[[], T], at: str = "the data and the model") -> T:
    """Do something that may fail on some ranks only, and return its result if it worked on all. A collective.

    Args:
        comm: The ranks.
        work: What to do; it may call `agreed` and `agreed_values` itself.
        at: Which step this is, in words; all ranks must be at the same one.

    Raises:
        PeerFailedError: On the ranks that did not fail first.
        UserCodeError: On all ranks, if they are at different steps.
    """
    results: list[T] = []
    agreed_values(comm, lambda: results.append(work()), at)
    return results[0]


def agreed_values(comm: Comm, work: Callable[[], Any], at: str) -> list[Any]:
    """Do the same, and return every rank's result, which must be fit for JSON, in rank order. A collective.

    Raises:
        PeerFailedError: On the ranks that did not fail first.
        UserCodeError: On all ranks, if they are at different steps.
    """
    problem: Exception | None = None
    value = None
    try:
        value = work()
    except Exception as error:
        if getattr(error, "is_agreed", False):  # within `work`: all ranks know, and none waits for this one
            raise
        problem = error
    mine = {"code": exit_code(problem) if problem else 0, "at": at, "value": value}
    found = comm.gather_json(mine, name="agree")
    first = next((rank for rank, theirs in enumerate(found) if theirs["code"]), None)
    if first is not None:
        is_mine = problem is not None and first == comm.rank
        raise _known_to_all(problem if is_mine and problem else PeerFailedError(first, found[first]["code"]))
    for rank, theirs in enumerate(found):
        if theirs["at"] != found[0]["at"]:
            raise _known_to_all(
                UserCodeError(
                    f"rank 0 is at {found[0]['at']} and rank {rank} at {theirs['at']}: every rank must make the same "
                    "calls in the same order, whatever its number"
                )
            )
    return [theirs["value"] for theirs in found]


def _known_to_all(error: Exception) -> Exception:
    """Mark an error that every rank raises in its place, so that nobody waits to be told of it again."""
    error.is_agreed = True  # type: ignore[attr-defined]
    return error
