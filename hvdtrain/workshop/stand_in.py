"""What takes the place of a data set that is not at hand: made-up data of the same form, marked as such."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hvdtrain.errors import EnvironmentNotFitError, UserCodeError
from hvdtrain.fetch import fetch
from hvdtrain.names import did_you_mean

Examples = tuple[np.ndarray, np.ndarray]
Split = tuple[Examples, Examples]

ALLOWED, NEVER, ALWAYS = CHOICES = ("allowed", "never", "always")


class StandIn(tuple):
    """A split that is made up.

    Args:
        split: ((x_train, y_train), (x_test, y_test)).
        name: The data set that it stands in for.
        why: Why, in words.
    """

    name: str
    why: str

    def __new__(cls, split: Split, name: str, why: str) -> StandIn:
        """Return the same pair, marked."""
        marked = super().__new__(cls, split)
        marked.name, marked.why = name, why
        return marked


def real_or_stand_in(
    name: str, read: Callable[[Path], Split], make_up: Callable[[], Split], choice: str
) -> Split | StandIn:
    """Return a data set, downloaded if need be, or what stands in for it where it is not at hand.

    Args:
        name: As `hvdtrain data list` has it.
        read: Makes the split of the data set's place.
        make_up: Makes the stand-in.
        choice: `allowed`: a stand-in where the data set is not there and cannot be had. `never`: that is an error.
            `always`: the stand-in, whatever is there.

    Raises:
        UserCodeError: If the data set is not there and no stand-in is wanted, or what is there is something else.
        CorruptError, NoSpaceError: As `fetch` does, whatever the choice.
    """
    if choice not in CHOICES:
        allowed = ", ".join(CHOICES)
        raise UserCodeError(f"stand_in must be one of {allowed}; got {choice!r}{did_you_mean(str(choice), CHOICES)}")
    if choice == ALWAYS:
        return StandIn(make_up(), name, f"a stand-in was asked for (stand_in: {ALWAYS})")
    try:
        place = fetch(name, os.environ)
    except EnvironmentNotFitError as error:
        if choice == NEVER:
            raise UserCodeError(f"{name} is not at hand, and stand_in is {NEVER}: {error}") from error
        return StandIn(make_up(), name, str(error))
    return read_explained(name, place, read)


def read_explained(name: str, place: Path, read: Callable[[Path], Any]) -> Any:
    """Return what is read, or say which file is not what it should be.

    Raises:
        UserCodeError: If it cannot be read as what its name says.
    """
    try:
        return read(place)
    except UserCodeError:
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserCodeError(
            f"{place} is not {name} in Keras's layout ({why}); remove it, then: hvdtrain data fetch {name}"
        ) from error
