"""The one TensorFlow operation of our own, in C++: its source, and where its compiled library is kept.

`hvdtrain build-horovod` compiles it; a worker that does not find it averages gradients through Horovod instead.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from hvdtrain.cache import cache_root

SOURCE = Path(__file__).with_name("node_mean.cc")


def library_path(tensorflow_version: str, environ: Mapping[str, str]) -> Path:
    """Return where the library for this TensorFlow and this source lies once it is built."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]
    name = f"node_mean-tf{tensorflow_version}-{platform.machine()}-{digest}.so"
    return cache_root(environ) / "native" / name
