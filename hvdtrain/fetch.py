"""Data sets fetched once: on a login node before the job, or by whichever rank comes first.

The folder is $HVDTRAIN_DATA, or Keras's own cache, so that Keras finds what is fetched here and the other way round.
A lock lets one process download, and the others wait for it. A file is there whole and right, or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from hvdtrain.data_files import DATA_SETS, DataFile, DataSet
from hvdtrain.errors import CorruptError, EnvironmentNotFitError, NoSpaceError, NotFoundError
from hvdtrain.names import did_you_mean
from hvdtrain.rundir import NO_SPACE

MIRROR = "HVDTRAIN_DATA_MIRROR"
TIMEOUT_S = 60.0
CHUNK = 2**20


def data_folder(environ: Mapping[str, str]) -> Path:
    """Return where data sets are kept.

    >>> data_folder({"HVDTRAIN_DATA": "/data"}).as_posix(), data_folder({"HOME": "/home/me"}).as_posix()
    ('/data', '/home/me/.keras/datasets')
    """
    given = environ.get("HVDTRAIN_DATA")
    if given:
        return Path(given)
    return Path(environ.get("KERAS_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".keras") / "datasets"


def place_of(known: DataSet, folder: Path) -> Path:
    """Return where a data set belongs: its file, or the folder of its files."""
    first = folder / known.files[0].file
    return first if len(known.files) == 1 else first.parent


def find(known: DataSet, folder: Path) -> Path | None:
    """Return where a data set is, whole, as Keras's cache has it or in another form; None if it is not there."""
    if all((folder / one.file).is_file() for one in known.files):
        return place_of(known, folder)
    return next((folder / other for other in known.others if (folder / other).exists()), None)


def fetch(name: str, environ: Mapping[str, str], say: Callable[[str], None] = lambda text: None) -> Path:
    """Return a data set's file, or the folder of its files, downloaded if it is not there; once for all who ask.

    What is there already is taken as it is: it may be a site's own copy.

    Args:
        name: A key of `DATA_SETS`.
        environ: Where HVDTRAIN_DATA, HVDTRAIN_DATA_MIRROR, KERAS_HOME and HOME are read.
        say: Takes words for people.

    Raises:
        NotFoundError: If there is no such data set.
        EnvironmentNotFitError: If it cannot be downloaded or the folder cannot be written.
        CorruptError: If what came is not what was expected.
        NoSpaceError: If the disk is full.
    """
    if name not in DATA_SETS:
        raise NotFoundError(
            f"no data set {name!r}{did_you_mean(name, DATA_SETS) or '; there are ' + ', '.join(DATA_SETS)}"
        )
    known, folder = DATA_SETS[name], data_folder(environ)
    found = find(known, folder)
    if found is not None:
        return found
    if known.log_in:
        raise EnvironmentNotFitError(
            f"{folder / known.files[0].file} is not there, and cannot be downloaded without an account: log in at "
            f"{known.log_in}, and put {Path(known.files[0].file).name} there"
        )
    for one in known.files:
        _fetch_file(one, folder / one.file, environ, say)
    return place_of(known, folder)


def _fetch_file(known: DataFile, place: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    if place.is_file():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_name(f".{place.name}.lock")) as notes:
            if not place.is_file():  # another process may have had the lock
                _download_or_note(known, place, environ, say, notes)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"{place.parent}: no space left for {place.name}") from error
        raise EnvironmentNotFitError(
            f"{place} is not there, and {place.parent} cannot be written: {error.strerror or error}; set HVDTRAIN_DATA"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """Hold a lock that ends with this process, however it ends; lockf works on network file systems too.

    The file holds what the one before had to say to those who waited for it; nothing if nobody had the lock.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
        except (BlockingIOError, PermissionError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _download_or_note(
    known: DataFile, place: Path, environ: Mapping[str, str], say: Callable[[str], None], notes: IO[str]
) -> None:
    """Download; or fail as the one did for which this process has waited, so that ranks do not fail one by one."""
    earlier = notes.read()
    if earlier:
        raise EnvironmentNotFitError(earlier)
    try:
        _download(known, place, environ, say)
    except EnvironmentNotFitError as error:
        notes.write(str(error))
        notes.flush()
        raise


def _download(known: DataFile, place: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    name = PurePosixPath(known.address).name
    mirror = environ.get(MIRROR)
    address = f"{mirror.rstrip('/')}/{name}" if mirror else known.address
    temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
    say(f"downloading {address}")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, open(temporary, "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        _require_checksum(temporary, known, address)
        temporary.replace(place)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        as_name = "" if name == place.name else f" as {place.name}"
        raise EnvironmentNotFitError(
            f"{address} cannot be reached: {why}. Compute nodes often have no internet: run `hvdtrain data fetch` on a "
            f"login node, or copy {name} into {place.parent}{as_name}; {MIRROR} names another server"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _require_checksum(path: Path, known: DataFile, address: str) -> None:
    digest = hashlib.new(known.algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != known.checksum:
        raise CorruptError(
            f"{address}: its {known.algorithm} checksum is {found}, not {known.checksum}: the download is damaged, or "
            "another file came (a login page?); nothing was kept"
        )
