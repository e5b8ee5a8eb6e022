"""Reading pickled arrays of other people's data sets without running what else a pickle may hold."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

# All that arrays and bytes need, as NumPy 1 and 2 and Python 2 wrote them.
HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class ArraysOnly(pickle.Unpickler):
    """Unpickles lists, dictionaries, numbers, texts and NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, if it can do no harm.

        Raises:
            pickle.UnpicklingError: If it is anything else.
        """
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        return super().find_class(module, name)


def read_npz(place: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file, also those of Python objects: lists of different lengths."""
    with zipfile.ZipFile(place) as archive:
        return {name.removesuffix(".npy"): _read_npy(io.BytesIO(archive.read(name))) for name in archive.namelist()}


def _read_npy(file: IO[bytes]) -> Any:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = read_header(file)
    if dtype.hasobject:
        return ArraysOnly(file).load()
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
