"""Reading tables of numbers from CSV files, with errors that name the line. Must not import TensorFlow."""

from __future__ import annotations

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
    """

    path: Path
    names: tuple[str, ...]
    rows: np.ndarray

    def line(self, row: int) -> str:
        """Return where a row is, for people; lines count from 1."""
        return f"{self.path}:{row + 1 + bool(self.names)}"


def read_table(path: Path) -> Table:
    """Return a file's numbers; a first line without any number is a header.

    Raises:
        NotFoundError: If there is no such file.
        UserCodeError: Naming the line, if it is empty, uneven, or holds something else than finite numbers.
    """
    try:
        content = path.read_bytes().rstrip()
    except OSError as error:
        raise NotFoundError(f"{path}: cannot be read: {error.strerror or error}") from error
    head, _, rest = content.partition(b"\n")
    if not content:
        raise UserCodeError(f"{path}: is empty; rows of numbers with commas between them are expected")
    names = [name.strip().strip('"') for name in head.decode("utf-8-sig", "replace").split(",")]
    has_header = not any(map(_is_number, names))
    if has_header and not rest:
        raise UserCodeError(f"{path}: has a header and no rows")
    table = Table(path, tuple(names) if has_header else (), _rows(path, content, len(names), int(has_header)))
    bad = np.flatnonzero(~np.isfinite(table.rows).all(axis=1))
    if len(bad):
        raise UserCodeError(f"{table.line(bad[0])}: holds NaN or infinity; finite numbers are expected")
    return table


def _rows(path: Path, content: bytes, width: int, first: int) -> np.ndarray:
    # Numbers are ASCII; a header that is left out may hold letters in any encoding, and a byte order mark.
    encoding = "latin-1" if first else "utf-8-sig"
    try:
        rows = np.loadtxt(path, np.float32, comments=None, delimiter=",", skiprows=first, ndmin=2, encoding=encoding)
    except ValueError as error:
        raise _complaint(path, content, width, first) from error
    if rows.shape != (content.count(b"\n") + 1 - first, width):
        raise _complaint(path, content, width, first)
    return rows


def _complaint(path: Path, content: bytes, width: int, first: int) -> UserCodeError:
    """Return what is wrong with the first line that is no row of numbers."""
    lines = content.decode("utf-8-sig", "replace").split("\n")
    for number, line in enumerate(lines[first:], first + 1):
        values = line.split(",")
        if len(values) != width:
            return UserCodeError(f"{path}:{number}: has {len(values)} values, the first line has {width}")
        for column, value in enumerate(values, 1):
            if not _is_number(value):
                return UserCodeError(f"{path}:{number}: value {column} must be a number; got {value.strip()!r}")
    return UserCodeError(f"{path}: is no table of numbers")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
