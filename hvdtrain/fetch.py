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
from dataclasses import dataclass
from pathlib import Path

from hvdtrain.errors import CorruptError, EnvironmentNotFitError, NoSpaceError, NotFoundError
from hvdtrain.names import did_you_mean
from hvdtrain.rundir import NO_SPACE

KERAS_DATA = "https://storage.googleapis.com/tensorflow/tf-keras-datasets"
MIRROR = "HVDTRAIN_DATA_MIRROR"
TIMEOUT_S = 60.0
CHUNK = 2**20


@dataclass(frozen=True)
class DataFile:
    """A file that can be fetched.

    Args:
        file: Its name.
        sha256: Of its content.
        text: What it is, for people.
    """

    file: str
    sha256: str
    text: str


# Names, files and checksums as Keras has them (keras.datasets).
FILES = {
    "mnist": DataFile(
        "mnist.npz",
        "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
        "70,000 handwritten digits, 28 x 28 (11 MB)",
    ),
    "boston_housing": DataFile(
        "boston_housing.npz",
        "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5",
        "506 house prices with 13 features (57 kB)",
    ),
}


def data_folder(environ: Mapping[str, str]) -> Path:
    """Return where data sets are kept.

    >>> data_folder({"HVDTRAIN_DATA": "/data"}).as_posix(), data_folder({"HOME": "/home/me"}).as_posix()
    ('/data', '/home/me/.keras/datasets')
    """
    given = environ.get("HVDTRAIN_DATA")
    if given:
        return Path(given)
    return Path(environ.get("KERAS_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".keras") / "datasets"


def fetch(name: str, environ: Mapping[str, str], say: Callable[[str], None] = lambda text: None) -> Path:
    """Return a data set's file, downloaded if it is not there; one download however many processes ask.

    A file that is there already is taken as it is: it may be a site's own copy.

    Args:
        name: `mnist` or `boston_housing`.
        environ: Where HVDTRAIN_DATA, HVDTRAIN_DATA_MIRROR, KERAS_HOME and HOME are read.
        say: Takes words for people.

    Raises:
        NotFoundError: If there is no such data set.
        EnvironmentNotFitError: If it cannot be downloaded or the folder cannot be written.
        CorruptError: If what came is not what was expected.
        NoSpaceError: If the disk is full.
    """
    if name not in FILES:
        raise NotFoundError(f"no data set {name!r}{did_you_mean(name, FILES) or '; there are ' + ', '.join(FILES)}")
    known, folder = FILES[name], data_folder(environ)
    place = folder / known.file
    if place.is_file():
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{known.file}.lock"):
            if not place.is_file():  # another process may have had the lock
                _download(known, place, environ, say)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"{folder}: no space left for {known.file}") from error
        raise EnvironmentNotFitError(
            f"{folder} cannot be written: {error.strerror or error}; set HVDTRAIN_DATA"
        ) from error
    return place


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends; lockf works on network file systems too."""
    with open(path, "w", encoding="utf-8") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _download(known: DataFile, place: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    address = f"{(environ.get(MIRROR) or KERAS_DATA).rstrip('/')}/{known.file}"
    temporary = place.with_name(f".{place.name}.{os.getpid()}.part")
    say(f"downloading {address}")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, open(temporary, "wb") as file:
            shutil.copyfileobj(answer, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        if digest != known.sha256:
            raise CorruptError(
                f"{address}: SHA-256 is {digest}, not {known.sha256}: the download is damaged, or another file came "
                "(a login page?); nothing was kept"
            )
        temporary.replace(place)
    except (urllib.error.URLError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise EnvironmentNotFitError(
            f"{address} cannot be reached: {why}. Compute nodes often have no internet: run `hvdtrain data fetch` on a "
            f"login node, or copy {known.file} into {place.parent}; {MIRROR} names another server"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
