"""What is to be staged: files found on the shared file system, and reading them piece by piece. No TensorFlow."""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hvdtrain.errors import HvdtrainError, UserCodeError
from hvdtrain.train.stage_stream import Segment

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class SourceFile:
    """One file as it was when it was found.

    Args:
        name: Its path below the listing's root.
        size: Bytes.
        mtime_ns: When it was last changed, ns since 1970.
    """

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What was asked for.

    Args:
        root: The folder that was named, or that all the files lie below; absolute.
        files: Files, in the order of their names.
        folders: Folders below the root, the empty ones too.
        wanted: What the caller gets: names below the root; "." for a folder.
        is_one: Whether one folder or file was named.
    """

    root: str
    files: tuple[SourceFile, ...]
    folders: tuple[str, ...]
    wanted: tuple[str, ...]
    is_one: bool

    @property
    def key(self) -> str:
        """A name for the copy of this root."""
        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]

    @property
    def is_folder(self) -> bool:
        """Whether a folder was named, so that nothing else belongs into its copy."""
        return self.wanted == (".",)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Listing:
        """Return what `to_json` was made of."""
        files = tuple(SourceFile(**file) for file in value["files"])
        return Listing(value["root"], files, tuple(value["folders"]), tuple(value["wanted"]), value["is_one"])


def find(paths: Paths) -> Listing:
    """Look up the files of a folder, a file, a pattern or a list of files. Only their entries are read.

    Raises:
        UserCodeError: If something does not exist, or is neither file nor folder.
    """
    try:
        if not isinstance(paths, (str, os.PathLike)):
            return _listed([os.path.abspath(path) for path in paths], is_one=False)
        place = os.path.abspath(paths)
        if os.path.isdir(place):
            return _folder(place)
        if os.path.exists(place) or not glob.has_magic(place):
            return _listed([place], is_one=True)
        found = sorted(path for path in glob.glob(place) if os.path.isfile(path))
        if not found:
            raise UserCodeError(f"{place}: no file has this name; give a folder, a file or a pattern such as 'train-*'")
        return _listed(found, is_one=False)
    except OSError as error:
        raise _unreadable(error, str(paths)) from error


def _folder(place: str) -> Listing:
    files, folders = [], []
    seen: set[str] = set()
    for folder, inner, names in os.walk(place, followlinks=True, onerror=_give_up):
        real = os.path.realpath(folder)
        if real in seen:
            raise UserCodeError(f"{folder}: a link leads back to a folder that holds it, so there is no end of files")
        inner[:] = sorted(inner)
        seen.add(real)
        folders.append(os.path.relpath(folder, place))
        files += [_source_file(os.path.join(folder, one), place) for one in sorted(names)]
    return Listing(place, tuple(files), tuple(folders), (".",), is_one=True)


def _listed(places: Sequence[str], *, is_one: bool) -> Listing:
    if not places:
        raise UserCodeError("no files to stage: the list is empty")
    root = os.path.commonpath([os.path.dirname(place) for place in places])
    files = tuple(_source_file(place, root) for place in sorted(set(places)))
    folders = {os.path.dirname(file.name) for file in files} - {""}
    wanted = tuple(os.path.relpath(place, root) for place in places)
    return Listing(root, files, tuple(sorted(folders)), wanted, is_one)


def _source_file(place: str, root: str) -> SourceFile:
    found = os.stat(place)
    if not stat.S_ISREG(found.st_mode):
        raise UserCodeError(f"{place}: expected a file; staging takes folders, files, patterns and lists of files")
    return SourceFile(os.path.relpath(place, root), found.st_size, found.st_mtime_ns)


def _give_up(error: OSError) -> None:
    raise error


def _unreadable(error: OSError, place: str) -> UserCodeError:
    return UserCodeError(f"{error.filename or place}: cannot be staged: {error.strerror}")


class Reader:
    """Reads runs of bytes, and notices if a file is no longer the one that was found.

    Args:
        root: The listing's.
        files: Those that segments number.
    """

    def __init__(self, root: str, files: Sequence[SourceFile]) -> None:
        self._root, self._files = root, files
        self.num_bytes = 0

    def read(self, segments: Iterable[Segment]) -> np.ndarray:
        """Return the bytes of some segments, one after the other.

        Raises:
            UserCodeError: If a file is gone, cannot be read, or has changed since it was found.
        """
        parts = [self._read(segment) for segment in segments]
        self.num_bytes += sum(map(len, parts))
        return np.concatenate([np.empty(0, np.uint8), *parts])

    def _read(self, segment: Segment) -> np.ndarray:
        file = self._files[segment.file]
        place = os.path.join(self._root, file.name)
        data = np.empty(segment.length, np.uint8)
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                done = 0
                while done < segment.length and (
                    got := os.preadv(descriptor, [data[done:].data], segment.begin + done)
                ):
                    done += got
                now = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unreadable(error, place) from error
        if done < segment.length or (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
            raise HvdtrainError(
                f"{place}: changed while it was being staged (it had {file.size:,} bytes, now {now.st_size:,}); stage "
                "data that nothing writes to, then start again"
            )
        return data


def _fill(data: np.ndarray, descriptor: int, begin: int) -> int:
    """Read until the array is full or the file ends; return the bytes that were read."""
    done = 0
    while done < len(data) and (got := os.preadv(descriptor, [data[done:].data], begin + done)):
        done += got
    return done
