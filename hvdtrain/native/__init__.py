"""C++ of our own: TensorFlow operations, with where their compiled library is kept, and a header added to Horovod.

`hvdtrain build-horovod` compiles them; a worker that does not find the library averages gradients through Horovod and
updates weights as Keras does.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from hvdtrain.cache import cache_root

FOLDER = Path(__file__).parent
SOURCES = (FOLDER / "node_mean.cc", FOLDER / "adam.cc")
HOROVOD_IDLE = FOLDER / "horovod_idle.h"


def library_path(tensorflow_version: str, environ: Mapping[str, str]) -> Path:
    """Return where the library for this TensorFlow and these sources lies once it is built."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:8]
    name = f"operations-tf{tensorflow_version}-{platform.machine()}-{digest}.so"
    return cache_root(environ) / "native" / name
