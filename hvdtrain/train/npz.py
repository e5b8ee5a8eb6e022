"""Named arrays as an uncompressed .npz file: written in pieces without a second copy, read as views of its bytes.

`numpy.load` reads the same file. Imports neither TensorFlow nor Keras.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from hvdtrain.train.durable import PIECE

# The zip format: a local header's fixed part, and where in it the lengths of name and extra field are.
LOCAL_HEADER = 30
LENGTHS_AT = 26
# The .npy format: magic string, version and the length of the header that follows.
NPY_PREFIX = 10


def write(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays front to back; `file` needs `write` and `flush` only. Equal arrays give equal bytes.

    Raises:
        TypeError: If an array holds Python objects.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                _write_array(member, name, np.asarray(array, order="C"))


def _write_array(member: IO[bytes], name: str, array: np.ndarray) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"{name} holds Python objects, which are never saved: they could only be pickled")
    header: Any = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(member, header)
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), PIECE):
        member.write(data[start : start + PIECE])


def read(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a whole file in memory, as read-only views of it.

    Nothing is unpacked, so what a damaged file says about its sizes cannot take more memory than the file itself.

    Raises:
        Exception: Of almost any kind, if the bytes are not what `write` or `numpy.savez` would have written.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"{name} is there twice")
            arrays[name] = _read_array(data, info)
    return arrays


def _read_array(data: bytes, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    name_length, extra_length = struct.unpack_from("<HH", data, info.header_offset + LENGTHS_AT)
    begin = info.header_offset + LOCAL_HEADER + name_length + extra_length
    size = NPY_PREFIX + struct.unpack_from("<H", data, begin + NPY_PREFIX - 2)[0]
    header = io.BytesIO(data[begin : begin + size])
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError(f"{info.filename} has an unknown version")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(header)
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds a pickle, which is never loaded")
    count = math.prod(shape)
    if count * dtype.itemsize != info.file_size - size:
        raise ValueError(f"{info.filename} has {info.file_size - size} bytes for shape {shape} of {dtype}")
    flat = np.frombuffer(data, dtype, count=count, offset=begin + size)
    return flat.reshape(shape, order="F" if is_fortran else "C")
