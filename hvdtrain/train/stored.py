"""Data sets that stay in files, read by number: their order, sharding and exact resume are those of arrays.

Each rank reads the examples of its own batches and no others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hvdtrain.errors import UserCodeError
from hvdtrain.names import did_you_mean
from hvdtrain.train.comm import joined
from hvdtrain.train.data_options import for_one_batch

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
CACHE_BYTES = 2**30  # of decoded images that a rank keeps, if they are not more


class StoredArray:
    """What looks like an array with one row per example, and is read from files when rows are asked for.

    Args:
        length: Examples.
        shape: Of one of them.
        dtype: Of the values; `object` for strings of bytes.
        read: Example numbers, shape (n,) -> values, shape (n, *shape).
    """

    def __init__(
        self, length: int, shape: tuple[int, ...], dtype: Any, read: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.shape = (length, *shape)
        self.dtype = np.dtype(dtype)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = np.arange(len(self))[key]
        return self._read(rows) if rows.ndim else self._read(rows[None])[0]

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return these examples, in a graph; `rows` has shape (n,)."""
        found = tf.numpy_function(self._read, [rows], tf.as_dtype(self.dtype))
        return tf.ensure_shape(found, (rows.shape[0], *self.shape[1:]))


@dataclass(frozen=True)
class Mapped:
    """Arrays whose batches go through a function.

    Args:
        arrays: A tuple of arrays, stored or not.
        function: What a batch of each gives -> the batch to train on; TensorFlow operations only.
    """

    arrays: tuple[Any, ...]
    function: Callable[..., Any]


@dataclass(frozen=True)
class OwnFiles(Mapped):
    """The examples in this rank's files, where each rank opens its own only.

    Args:
        arrays: Of this rank's examples.
        function: As for `Mapped`.
        counts: Examples of each rank, in rank order.
    """

    counts: tuple[int, ...] = ()


def stored_arrays(data: Any) -> Any:
    """Return the arrays behind data, before any function."""
    return data.arrays if isinstance(data, Mapped) else data


def gatherer(data: Any) -> Callable[[tf.Tensor], Any]:
    """Return what gives the batch of some example numbers: of a nest of arrays, or a `Mapped` one."""
    if isinstance(data, Mapped):
        inner = gatherer(data.arrays)
        return lambda rows: data.function(*inner(rows))
    leaves = tf.nest.map_structure(
        lambda leaf: leaf if isinstance(leaf, StoredArray) else tf.convert_to_tensor(leaf), data
    )
    return lambda rows: tf.nest.map_structure(
        lambda leaf: leaf.gather(rows) if isinstance(leaf, StoredArray) else tf.gather(leaf, rows), leaves
    )


def is_stored(data: Any) -> bool:
    """Tell whether any of it is read when it is needed."""
    return isinstance(data, Mapped) or any(isinstance(leaf, StoredArray) for leaf in tf.nest.flatten(data))


def image_folder(
    path: str | Path,
    *,
    channels: int = 0,
    size: tuple[int, int] | None = None,
    cache: bool | None = None,
    own_files: bool = False,
    classes: Sequence[str] | None = None,
) -> Any:
    """Return (images, class numbers) of a folder that has a folder of PNG, JPEG or BMP files for each class.

    Images are float32, 0 to 1, shape (height, width, channels). Classes are numbered in the order of their names.

    Args:
        path: The folder.
        channels: 1 for grey, 3 for colours; 0 as the first image has them.
        size: (height, width) that every image is brought to; None: all of them must have the first one's.
        cache: Whether a rank keeps what it has decoded; None: if all images are no more than 1 GiB.
        own_files: Deal the files out to ranks once and for all; the order then depends on the number of ranks.
        classes: Names of the folders in the order of their numbers, where training and test data do not have the same
            ones; a class without a folder has no image. None: the folders that are there.

    Raises:
        UserCodeError: If there is no such folder or no image in it, or a class that is not among `classes`; while
            reading, if an image cannot be read or has another shape.
    """
    folder = Path(path)
    places = _class_folders(folder)
    names = [place.name for place in places] if classes is None else list(classes)
    _require_known(folder, places, names)
    files: list[Path] = []
    labels: Any = []
    for place in places:
        found = sorted(file for file in place.iterdir() if file.suffix.lower() in IMAGES)
        files += found
        labels += [names.index(place.name)] * len(found)
    if not files:
        raise UserCodeError(
            f"{folder}: expected a folder for each class with {', '.join(IMAGES)} files in it; found "
            f"{f'{len(places)} folders without any' if places else 'no folder'}"
        )
    labels = np.asarray(labels, np.int64)
    if not own_files:
        return _ImageArray(_Images(files, channels, size, cache), names), labels
    comm = joined()
    mine = slice(comm.rank, None, comm.size)  # files are sorted by class, so each rank gets of all classes
    counts = tuple(len(range(rank, len(files), comm.size)) for rank in range(comm.size))
    if not counts[-1]:
        raise UserCodeError(f"{folder}: {len(files)} images for {comm.size} ranks, and each rank needs one at least")
    images = _ImageArray(_Images(files[mine], channels, size, cache), names)
    return OwnFiles((images, labels[mine]), _as_they_are, counts)


def _require_known(folder: Path, places: Sequence[Path], names: Sequence[str]) -> None:
    """Raise if a folder is of none of the classes, or a class is named twice."""
    if len(set(names)) < len(names):
        raise UserCodeError(f"{folder}: classes names one twice: {', '.join(names)}")
    strange = [place.name for place in places if place.name not in names]
    if strange:
        raise UserCodeError(
            f"{folder / strange[0]}: there is no class {strange[0]!r} in classes, which are {', '.join(names)}"
            f"{did_you_mean(strange[0], names)}"
        )


def require_same_classes(train: Any, test: Any, source: str) -> None:
    """Raise if folders of training and test images number their classes differently.

    Raises:
        UserCodeError: Naming the first class with two numbers, and what to do.
    """
    of_train, of_test = _classes_of(train), _classes_of(test)
    if of_train and of_test and list(of_test) != list(of_train[: len(of_test)]):
        place = next(i for i, name in enumerate(of_test) if i == len(of_train) or name != of_train[i])
        there = repr(of_train[place]) if place < len(of_train) else "not there"
        raise UserCodeError(
            f"{source}: class {place} is {there} in the training folder and {of_test[place]!r} in the test folder; "
            "give both the same classes: hk.image_folder(..., classes=[...])"
        )


def _classes_of(part: Any) -> Sequence[str]:
    leaves = tf.nest.flatten(part.arrays if isinstance(part, Mapped) else part)
    return next((leaf.classes for leaf in leaves if isinstance(leaf, _ImageArray)), ())


def _class_folders(folder: Path) -> list[Path]:
    """Return the folders of the classes; hidden ones, such as `.ipynb_checkpoints`, are none."""
    if not folder.is_dir():
        return []
    return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))


def _as_they_are(*batch: Any) -> Any:
    return batch


class _Images:
    """Image files, decoded when asked for, once if they are kept."""

    def __init__(self, files: Sequence[Path], channels: int, size: tuple[int, int] | None, cache: bool | None) -> None:
        self._files = files
        self._channels, self._size = channels, size
        self.shape: tuple[int, ...] = self._decode(files[0]).shape
        self._channels = self.shape[-1]
        num_bytes = len(files) * int(np.prod(self.shape))
        keeps = num_bytes <= CACHE_BYTES if cache is None else cache
        # The memory of rows that are never written is never taken.
        self._kept = np.empty((len(files), *self.shape), np.uint8) if keeps else None
        self._is_kept = np.zeros(len(files), bool)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return images as floats."""
        if self._kept is None:
            return _as_floats(np.stack([self._whole(row) for row in rows]))
        for row in rows[~self._is_kept[rows]]:
            self._kept[row] = self._whole(row)
        self._is_kept[rows] = True
        return _as_floats(self._kept[rows])

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return images as floats, in a graph.

        It decodes by itself what is not kept, in half the time of calls from Python; where it cannot, Python does it
        again, to find and name the file.
        """
        if self._kept is not None:
            return tf.numpy_function(self.read, [rows], tf.float32)
        contents = tf.ensure_shape(tf.numpy_function(self._contents, [rows], tf.string), (None,))
        images = tf.data.Dataset.from_tensor_slices(contents).map(self._in_graph).ignore_errors().batch(len(self))
        none = tf.data.Dataset.from_tensors(tf.zeros((0, *self.shape), tf.uint8))
        decoded = images.concatenate(none).take(1).with_options(for_one_batch()).get_single_element()
        return tf.numpy_function(self._checked, [rows, decoded], tf.float32)

    def _contents(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows), object)
        for place, row in enumerate(rows):
            try:
                found[place] = _content(self._files[row])
            except OSError as error:
                raise _unreadable(self._files[row], error) from error
        return found

    def _in_graph(self, content: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(_decoded(content, self._channels, self._size), self.shape)

    def _checked(self, rows: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        return _as_floats(decoded) if len(decoded) == len(rows) else self.read(rows)

    def _whole(self, row: int) -> np.ndarray:
        file = self._files[row]
        image = self._decode(file)
        if image.shape != self.shape:
            raise UserCodeError(
                f"{file}: this image has shape {image.shape}, the first one {self.shape}; give image_folder a size "
                "that all are brought to"
            )
        return image

    def _decode(self, file: Path) -> np.ndarray:
        try:
            with tf.device("CPU:0"):
                decoded: np.ndarray = _decoded(_content(file), self._channels, self._size).numpy()
        except (OSError, tf.errors.OpError) as error:
            raise _unreadable(file, error) from error
        return decoded


class _ImageArray(StoredArray):
    """Images as an array.

    Args:
        images: The files.
        classes: What the class numbers beside them stand for.
    """

    def __init__(self, images: _Images, classes: Sequence[str]) -> None:
        super().__init__(len(images), images.shape, np.float32, images.read)
        self._images = images
        self.classes = classes

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(self._images.gather(rows), (rows.shape[0], *self.shape[1:]))


def _as_floats(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def _decoded(content: Any, channels: int, size: tuple[int, int] | None) -> tf.Tensor:
    """Return the pixels of an image file's content, uint8, brought to a size if one is given."""
    image = tf.io.decode_image(content, channels=channels, expand_animations=False)
    if size is None:
        return image
    image = tf.image.resize(image, size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _content(file: Path) -> bytes:
    """Return what a file holds; in half the time of `Path.read_bytes`, which matters for many small ones."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        found = os.read(descriptor, size)
        while len(found) < size and (more := os.read(descriptor, size - len(found))):
            found += more
        return found
    finally:
        os.close(descriptor)


def _unreadable(file: Path, error: Exception) -> UserCodeError:
    return UserCodeError(f"{file}: not an image that can be read: {str(error).splitlines()[0]}")
