"""Kaggle's digit-recognizer: MNIST's digits as a CSV file, to be sent in as a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvdtrain.csv_table import Table, read_table
from hvdtrain.errors import NotFoundError, UserCodeError
from hvdtrain.known_data import KAGGLE_HELD_OUT, KAGGLE_ROWS
from hvdtrain.workshop import made_up
from hvdtrain.workshop.stand_in import ALLOWED, Examples, Split, real_or_stand_in

SIDE = 28
PIXELS = tuple(f"pixel{number}" for number in range(SIDE * SIDE))
HELD_OUT_SEED = 0


def digit_recognizer(path: str | None = None, held_out: int = KAGGLE_HELD_OUT, stand_in: str = ALLOWED) -> Split:
    """Return train.csv of Kaggle's digit-recognizer, 28 x 28 x 1, values 0 to 1, some rows held out for testing.

    Kaggle keeps the labels of its own test.csv to itself, so what is held out, always the same rows, is the test set.

    Args:
        path: The file, with the header label,pixel0..pixel783; None: digit-recognizer/train.csv in $HVDTRAIN_DATA or
            the Keras cache. A file with another number of rows than Kaggle's needs data.num_examples.
        held_out: Rows that are not trained on.
        stand_in: Whether made-up images may take its place: `allowed` where it is not at hand, `never`, `always`. A
            file that is named must be there.

    Raises:
        UserCodeError: Naming the line, if the file is another one.
    """
    if path is not None:
        return _split(Path(path).absolute(), held_out)
    num_train = KAGGLE_ROWS - held_out
    return real_or_stand_in(
        "digit_recognizer",
        lambda place: _split(place, held_out),
        lambda: made_up.pictures(num_train, held_out, (SIDE, SIDE, 1), 10),
        stand_in,
    )


def digit_recognizer_inputs(rows: np.ndarray) -> np.ndarray:
    """Return rows of pixels, 0 to 255, as the network has learned them: 28 x 28 x 1, values 0 to 1."""
    if rows.ndim != 2 or rows.shape[1] != len(PIXELS):
        raise UserCodeError(
            f"a row must have {len(PIXELS)} pixels, as test.csv has them, without a label; got rows of shape "
            f"{rows.shape[1:]}"
        )
    return (rows.astype(np.float32) / 255.0).reshape(-1, SIDE, SIDE, 1)


def _split(path: Path, held_out: int) -> Split:
    x, y = _read(path)
    if not 1 <= held_out < len(x):
        raise UserCodeError(f"held_out must be 1 to {len(x) - 1}, as {path} has {len(x)} rows; got {held_out}")
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(x))
    test, train = order[:held_out], order[held_out:]
    return (x[train], y[train]), (x[test], y[test])


def _read(path: Path) -> Examples:
    try:
        table = read_table(path)
    except NotFoundError as error:
        raise UserCodeError(str(error)) from error
    _require_columns(table)
    labels, pixels = table.rows[:, 0], table.rows[:, 1:]
    _require(table, np.isin(labels, np.arange(10)), "the label must be 0 to 9")
    _require(table, (pixels.min(axis=1) >= 0) & (pixels.max(axis=1) <= 255), "pixels must be 0 to 255")
    return digit_recognizer_inputs(pixels), labels.astype(np.int64)


def _require_columns(table: Table) -> None:
    expected = ("label", *PIXELS)
    if table.names == expected:
        return
    if table.names == PIXELS:
        raise UserCodeError(f"{table.head}: has no column 'label': this is test.csv; train.csv is expected")
    pairs = zip(table.names, expected, strict=False)
    wrong = next((f"column {place} is {a!r}, not {b!r}" for place, (a, b) in enumerate(pairs, 1) if a != b), None)
    found = wrong or f"there are {table.rows.shape[1]} columns"
    raise UserCodeError(f"{table.head}: the header must be label,pixel0,...,pixel783; {found}")


def _require(table: Table, is_right: np.ndarray, rule: str) -> None:
    if not is_right.all():
        raise UserCodeError(f"{table.line(int(np.argmin(is_right)))}: {rule}")
