"""Where hvdtrain keeps what it builds once and uses again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_root(environ: Mapping[str, str]) -> Path:
    """Return the directory of everything that is kept; what lies there can be made again.

    >>> cache_root({"XDG_CACHE_HOME": "/scratch/me"}).as_posix()
    '/scratch/me/hvdtrain'
    """
    root = environ.get("XDG_CACHE_HOME", "")
    base = Path(root) if os.path.isabs(root) else Path(environ.get("HOME") or Path.home()) / ".cache"
    return base / "hvdtrain"
