"""The copy on a node's own disk: where it lies, what of it is there, writing and checking it. No TensorFlow.

A file gets its name when it is whole, with its source's time of change: size and time tell later that it is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xxhash

from hvdtrain.errors import CorruptError, HvdtrainError, NoSpaceError, UserCodeError
from hvdtrain.sizes import size_text
from hvdtrain.train.stage_source import Listing, SourceFile
from hvdtrain.train.stage_stream import Segment

JOB_NAMES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
AUTO = ("SLURM_TMPDIR", "TMPDIR")  # then /tmp
UNFINISHED = "unfinished-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_used: dict[Path, int] = {}  # copy -> descriptor of its lock, held as long as this process lives
_passing: set[Path] = set()  # those that are not to stay


def disk_folder(to: str, environ: Mapping[str, str]) -> Path:
    """Return the folder on this node's disk that `to` means.

    Args:
        to: `auto`, or a path in which variables of the environment may stand: `/scratch/$USER`.
        environ: The process environment.

    Raises:
        UserCodeError: If there is no such folder, or it cannot be written to.
    """
    if to == "auto":
        named = [environ[name] for name in AUTO if environ.get(name)]
        return next((Path(place) for place in [*named, "/tmp"] if _is_usable(place)), Path("/tmp"))
    place = os.path.expanduser(os.path.expandvars(to))
    if not _is_usable(place):
        means = f", which is {place} here," if place != to else ""
        raise UserCodeError(
            f"cannot stage to {to}: on {socket.gethostname()} this{means} is no folder that can be written to; name "
            "one that every node has, such as /tmp or /dev/shm, or leave it at 'auto'"
        )
    return Path(place)


def _is_usable(place: str) -> bool:
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def job_folder(disk: Path, environ: Mapping[str, str]) -> Path:
    """Make, and return, the folder of this user's job; one of a job of its own if no scheduler numbers it.

    Raises:
        UserCodeError: If somebody else has put something there.
    """
    job = next((environ[name] for name in JOB_NAMES if environ.get(name)), "alone").replace("/", "_")
    folder = disk / f"hvdtrain-{os.getuid()}-{job}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserCodeError(f"{folder}: somebody else made this; remove it, or stage to another folder")
    return folder


class LocalCopy:
    """One node's copy of a listing, as one of its ranks sees and writes it.

    Args:
        folder: Of the job, on this node's disk.
        listing: What is copied.
        token: Tells this staging from others that write to the same place.
    """

    def __init__(self, folder: Path, listing: Listing, token: str) -> None:
        self.place = folder / listing.key
        self.root = self.place / (os.path.basename(listing.root) or "root")
        self._unfinished = self.place / f"{UNFINISHED}{token}"
        self._listing = listing

    def missing(self) -> list[int]:
        """Return the numbers of files that are not there, or not as they are at the source."""
        return [number for number, file in enumerate(self._listing.files) if not self._is_there(file)]

    def _is_there(self, file: SourceFile) -> bool:
        try:
            found = os.stat(self.root / file.name)
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)

    def require_space(self, numbers: Iterable[int]) -> None:
        """Make sure that these files fit.

        Raises:
            NoSpaceError: Naming what is needed and what is there.
        """
        num_bytes = sum(self._listing.files[number].size for number in numbers)
        free = shutil.disk_usage(self.place).free
        if free < num_bytes:
            raise NoSpaceError(
                f"staging {self._listing.root} needs {size_text(num_bytes)} in {self.place.parent} on "
                f"{socket.gethostname()}, and {size_text(free)} are free; stage to a larger disk (to=...) or less"
            )

    def make_folders(self) -> None:
        """Make the folders that files go to."""
        for place in (self._unfinished, self.root, *(self.root / name for name in self._listing.folders)):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)

    def prune(self) -> None:
        """Remove from the copy of a folder what is not in the folder any more."""
        files = {os.path.join(self.root, file.name) for file in self._listing.files}
        folders = {os.path.normpath(os.path.join(self.root, name)) for name in self._listing.folders}
        for folder, _, names in os.walk(self.root, topdown=False):
            for place in (os.path.join(folder, name) for name in names):
                if place not in files:
                    os.unlink(place)
            if folder not in folders:
                os.rmdir(folder)

    def write(self, segments: Sequence[tuple[int, Segment]], data: np.ndarray) -> None:
        """Write runs of bytes.

        Args:
            segments: The files' numbers in the listing, and where the bytes belong.
            data: All of them, one after the other.

        Raises:
            NoSpaceError: If the disk or quota is full.
            HvdtrainError: If they cannot be written.
        """
        at = 0
        for number, segment in segments:
            place = self._part(number)
            try:
                self._write(place, segment.begin, data[at : at + segment.length])
            except OSError as error:
                kind = NoSpaceError if error.errno in FULL else HvdtrainError
                raise kind(f"{place}: staging stopped on {socket.gethostname()}: {error.strerror}") from error
            at += segment.length

    @staticmethod
    def _write(place: str, begin: int, data: np.ndarray) -> None:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:].data, begin + done)
        finally:
            os.close(descriptor)

    def check(self, segments: Sequence[tuple[int, Segment]], digest: str) -> None:
        """Read back what was written, and compare it with what was read at the source.

        Raises:
            CorruptError: If it is not the same.
        """
        found = xxhash.xxh3_128()
        for number, segment in segments:
            with open(self._part(number), "rb", buffering=0) as file:
                file.seek(segment.begin)
                found.update(file.read(segment.length))
        if found.hexdigest() != digest:
            names = sorted({self._listing.files[number].name for number, _ in segments})
            raise CorruptError(
                f"{self.root}: what was written to {names[0]!r}"
                + (f" or {len(names) - 1} files beside it" if len(names) > 1 else "")
                + f" is not what was read at the source; is the disk of {socket.gethostname()} in order?"
            )

    def finish(self, numbers: Iterable[int]) -> None:
        """Give whole files their names.

        Raises:
            CorruptError: If one has not its size.
        """
        for number in numbers:
            self._finish(number)

    def _finish(self, number: int) -> None:
        file = self._listing.files[number]
        place = self._part(number)
        if file.size == 0:
            Path(place).touch()
        if os.stat(place).st_size != file.size:
            raise CorruptError(f"{place}: {os.stat(place).st_size:,} bytes arrived of {file.size:,}")
        os.utime(place, ns=(file.mtime_ns, file.mtime_ns))
        os.replace(place, self.root / file.name)

    def discard(self) -> None:
        """Remove what has not become a whole file."""
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _part(self, number: int) -> str:
        return str(self._unfinished / str(number))


def digest(data: np.ndarray) -> str:
    """Return the hash by which bytes are compared."""
    return xxhash.xxh3_128_hexdigest(data.data if len(data) else b"")


def hold(place: Path, *, keep: bool) -> None:
    """Let others know that this process uses a copy; unless it is to stay, the last of them removes it at its end."""
    if place not in _used:
        _used[place] = os.open(_lock(place), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(_used[place], fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else is here
            for killed in place.glob(UNFINISHED + "*"):
                shutil.rmtree(killed, ignore_errors=True)
        fcntl.flock(_used[place], fcntl.LOCK_SH)
    (_passing.discard if keep else _passing.add)(place)


def leave() -> None:
    """Remove the copies that are not to stay, if no other process uses them."""
    for place, descriptor in list(_used.items()):
        with contextlib.suppress(OSError):
            # Of processes that leave together one succeeds: each gives up its shared lock before it asks for this one.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place in _passing:
                shutil.rmtree(place, ignore_errors=True)
                _lock(place).unlink()
                place.parent.rmdir()  # fails where there are other copies of the job
        os.close(descriptor)
        del _used[place]


def _lock(place: Path) -> Path:
    return place.with_name(place.name + ".lock")
