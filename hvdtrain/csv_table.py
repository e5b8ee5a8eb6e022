"""Reading tables of numbers from CSV files, with errors that name the line. Must not import TensorFlow."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvdtrain.errors import NotFoundError, UserCodeError


@dataclass(frozen=True)
class Table:
    """What a CSV file holds.

    Args:
        path: The file.
        names: Of its columns; empty if it has no header.
        rows: Its numbers, float32.
        first: Line of the first row; lines count from 1.
    """

    path: Path
    names: tuple[str, ...]
    rows: np.ndarray
    first: int

    @property
    def head(self) -> str:
        """Where the header is, or the first row if there is none, for people."""
        return f"{self.path}:{self.first - bool(self.names)}"

    def line(self, row: int) -> str:
        """Return where a row is, for people."""
        return f"{self.path}:{row + self.first}"


def read_table(path: Path) -> Table:
    """Return a file's numbers; a first line without any number, or of column numbers from 0, is a header.

    Raises:
        NotFoundError: If there is no such file.
        UserCodeError: Naming the line, if it is empty, uneven, or holds something else than finite numbers.
    """
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip()
    except OSError as error:
        raise NotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
    text = content.decode("utf-8-sig", "replace")
    first = 1 + len(text) - len(text := text.lstrip("\n"))
    if not text:
        raise UserCodeError(f"{path}: is empty; rows of numbers with commas between them are expected")
    head, _, rest = text.partition("\n")
    names = _values(head)
    has_header = not any(map(_is_number, names)) or (len(names) > 2 and names == [str(i) for i in range(len(names))])
    if has_header and not rest:
        raise UserCodeError(f"{path}: has a header and no rows")
    text, first = (rest, first + 1) if has_header else (text, first)
    table = Table(path, tuple(names) if has_header else (), _rows(path, text, len(names), first), first)
    bad = np.flatnonzero(~np.isfinite(table.rows).all(axis=1))
    if len(bad):
        raise UserCodeError(f"{table.line(bad[0])}: holds NaN or infinity; finite numbers are expected")
    return table


def _values(line: str) -> list[str]:
    """Return what stands between a line's commas, without quotes around it.

    >>> _values('"a, b", 1')
    ['a, b', '1']
    """
    return [value.strip() for value in next(csv.reader([line], skipinitialspace=True), [])]


def _rows(path: Path, text: str, width: int, first: int) -> np.ndarray:
    try:
        rows = np.loadtxt(io.StringIO(text), np.float32, comments=None, delimiter=",", quotechar='"', ndmin=2)
    except ValueError as error:
        raise _complaint(path, text, width, first) from error
    if rows.shape != (text.count("\n") + 1, width):
        raise _complaint(path, text, width, first)
    return rows


def _complaint(path: Path, text: str, width: int, first: int) -> UserCodeError:
    """Return what is wrong with the first line that is no row of numbers."""
    for number, line in enumerate(text.split("\n"), first):
        values = _values(line)
        if not values:
            return UserCodeError(f"{path}:{number}: is an empty line between rows; take it out")
        if len(values) != width:
            return UserCodeError(f"{path}:{number}: has {len(values)} values, the first line has {width}")
        for column, value in enumerate(values, 1):
            if not _is_number(value):
                return UserCodeError(f"{path}:{number}: value {column} must be a number; got {value!r}")
    return UserCodeError(f"{path}: is no table of numbers")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
