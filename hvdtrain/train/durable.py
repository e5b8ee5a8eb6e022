"""Files and directory entries that are on the disk, not only in memory, when a call returns. Standard library only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# Bytes passed on at a time: a piece is still in the processor's cache when it is hashed before it is written.
PIECE = 1 << 20


class HashedFile:
    """A file that is written front to back and hashed on the way. It has no `tell`, so zipfile never goes back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.flush = file.flush

    def write(self, data: bytes) -> int:
        """Write and hash some bytes."""
        self.sha256.update(data)
        return self._file.write(data)


def write_file(path: Path, write: Callable[[Any], object]) -> str:
    """Write a file through to the disk and return its SHA-256.

    Args:
        path: Where.
        write: Called with a `HashedFile`.
    """
    with open(path, "wb", buffering=PIECE) as file:
        hashed = HashedFile(file)
        write(hashed)
        file.flush()
        os.fsync(file.fileno())
        # Whoever reads it back must not find the memory that was just written.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return hashed.sha256.hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces."""
    sha256 = hashlib.sha256()
    piece = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece):
            sha256.update(piece[:size])
    return sha256.hexdigest()


def make_directory(path: Path) -> list[Path]:
    """Make a directory and its parents; return the directories that got entries, which are to be synced."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True, exist_ok=True)
    return [parent.parent for parent in missing]


def fsync_path(path: Path) -> None:
    """Bring a file, or a directory's entries (names that were made, changed or removed in it), to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
