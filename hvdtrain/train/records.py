"""TFRecord files, their records found by number: where each one lies is read once, from the heads alone."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.train.agree import agreed, agreed_values
from hvdtrain.train.comm import Comm, joined
from hvdtrain.train.own_files import deal_files
from hvdtrain.train.stored import Mapped, OwnFiles, StoredArray

# A TFRecord: length and its checksum, the bytes and theirs.
RECORD_HEAD = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")


def tfrecords(
    files: str | Path | Sequence[str | Path], parse: Callable[[tf.Tensor], Any], *, own_files: bool = False
) -> Mapped:
    """Return the examples of TFRecord files, found by their numbers.

    ```python
    def parse(records):  # a batch of serialized tf.train.Example, a string tensor of shape (n,)
        found = tf.io.parse_example(records, {"image": tf.io.FixedLenFeature([], tf.string),
                                              "label": tf.io.FixedLenFeature([], tf.int64)})
        images = tf.reshape(tf.io.decode_raw(found["image"], tf.uint8), (-1, 28, 28, 1))
        return tf.cast(images, tf.float32) / 255, found["label"]
    ```

    Args:
        files: Paths, or one pattern such as "train-*.tfrecord"; examples are numbered in the order of the files' names.
        parse: Makes (x, y) of a whole batch of records at once, with TensorFlow operations.
        own_files: Deal the files out to ranks once and for all, by size; each rank opens its own only, and the order
            depends on the number of ranks. A collective.

    Raises:
        UserCodeError: If there is no such file, or one is cut short, damaged or no TFRecord file, or they are more than
            a process may open; with `own_files`, if there are fewer files than ranks. While reading, if the bytes of a
            record do not have its checksum.
    """
    if isinstance(files, (str, Path)):
        pattern, files = files, [files] if os.path.exists(files) else glob(str(files))
        if not files:
            raise UserCodeError(
                f"{pattern}: no file has this name; give a path, or a pattern such as 'data/train-*.tfrecord'"
            )
    names = sorted(map(str, files))
    if not names:
        raise UserCodeError("tfrecords: the list of files is empty; give paths, or a pattern: 'a-*.tfrecord'")
    if own_files:
        return _own_records(names, parse, joined())
    records = _Records(names)
    return Mapped((_array(records),), parse)


def _own_records(names: Sequence[str], parse: Callable[[tf.Tensor], Any], comm: Comm) -> OwnFiles:
    """Return the records in this rank's files; rank 0 alone asks how large files are, so that all deal alike."""
    at = f"tfrecords of {len(names)} files"
    sizes = agreed_values(comm, lambda: [_size(name) for name in names] if comm.rank == 0 else None, at)[0]
    mine = deal_files(sizes, comm.size)[comm.rank]
    records = agreed(comm, lambda: _Records([names[number] for number in mine]), at)
    counts = agreed_values(comm, lambda: records.count, at)
    if not all(counts):
        raise UserCodeError(f"own_files: the files of rank {counts.index(0)} hold no record; leave empty files out")
    return OwnFiles((_array(records),), parse, tuple(counts))


def _array(records: _Records) -> StoredArray:
    return StoredArray(records.count, (), object, records.read)


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError as error:
        raise UserCodeError(f"{file}: {error.strerror}") from error


class _Records:
    """Where each record lies, and reading them."""

    def __init__(self, files: Sequence[str]) -> None:
        self._names = files
        self._descriptors = [_opened(file, len(files)) for file in files]
        found = [_places(file, descriptor) for file, descriptor in zip(files, self._descriptors, strict=True)]
        self._file = np.repeat(np.arange(len(files)), [len(places) for places in found])
        self._places: np.ndarray = np.concatenate(found)
        self.count = len(self._file)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return records as strings of bytes.

        Raises:
            UserCodeError: If one is not what its checksum says.
        """
        found = np.empty(len(rows), object)
        for place, (file, (begin, length)) in enumerate(
            zip(self._file[rows].tolist(), self._places[rows].tolist(), strict=True)
        ):
            data = os.pread(self._descriptors[file], length + CHECKSUM.size, begin)
            record = data[:length]
            if data[length:] != _checksum(record):
                raise UserCodeError(
                    f"{self._names[file]}: the record at byte {begin - RECORD_HEAD.size} is damaged: its checksum is "
                    "not that of its bytes; copy or write the file again"
                )
            found[place] = record
        return found


def _checksum(data: bytes) -> bytes:
    """Return the four bytes that follow these in a TFRecord: CRC-32C, turned and shifted by a constant.

    Source: TensorFlow, lib/hash/crc32c.h.

    >>> _checksum(b"one").hex()
    '01405508'
    """
    crc = google_crc32c.value(data)
    return CHECKSUM.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _opened(file: str, num_files: int) -> int:
    try:
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        may, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE:
            raise UserCodeError(f"{file}: {error.strerror}") from error
        if may == at_most:
            raise UserCodeError(
                f"tfrecords of {num_files} files: this process may open {may} (ulimit -n): raise that, write the data "
                "to fewer files, or use own_files=True, by which a rank opens its own only"
            ) from error
    resource.setrlimit(resource.RLIMIT_NOFILE, (at_most, at_most))
    return _opened(file, num_files)


def _places(file: str, descriptor: int) -> np.ndarray:
    """Return (begin, length) of each record, shape (records, 2), from the heads alone."""
    size, at = os.fstat(descriptor).st_size, 0
    found: list[tuple[int, int]] = []
    while at < size:
        head = os.pread(descriptor, RECORD_HEAD.size, at)
        length = RECORD_HEAD.unpack(head)[0] if len(head) == RECORD_HEAD.size else size
        begin = at + RECORD_HEAD.size
        is_head = head[-CHECKSUM.size :] == _checksum(head[: -CHECKSUM.size])
        at = begin + length + CHECKSUM.size
        if at > size or not is_head:
            flaw = f"does not end within the file ({size} bytes)" if at > size else "has a damaged head"
            raise UserCodeError(f"{file}: record {len(found)} {flaw}: it is cut short, compressed or no TFRecord file")
        found.append((begin, length))
    return np.asarray(found, np.int64).reshape(-1, 2)
