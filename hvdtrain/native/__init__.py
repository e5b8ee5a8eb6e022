"""C++ of our own: a TensorFlow operation, with where its compiled library is kept, and a header added to Horovod.

`hvdtrain build-horovod` compiles them; a worker that does not find the operation averages gradients through Horovod.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from hvdtrain.cache import cache_root

SOURCE = Path(__file__).with_name("node_mean.cc")
HOROVOD_IDLE = Path(__file__).with_name("horovod_idle.h")


def library_path(tensorflow_version: str, environ: Mapping[str, str]) -> Path:
    """Return where the library for this TensorFlow and this source lies once it is built."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]
    name = f"node_mean-tf{tensorflow_version}-{platform.machine()}-{digest}.so"
    return cache_root(environ) / "native" / name
