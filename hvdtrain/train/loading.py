"""Loading TensorFlow and Keras without what training does not need.

Python's garbage collector looks for garbage again and again among a million objects of modules that all stay: a
second of every rank's start. It rests meanwhile, and takes them for permanent afterwards, so that its pauses in
training are short too.

Keras imports scikit-learn (with SciPy) for `keras.wrappers` and Matplotlib for `keras.visualization`, which takes every
rank most of a second and opens two thousand files; a training run uses neither.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

UNUSED_BY_TRAINING = (
    "keras.wrappers",
    "keras.visualization",
    "keras.src.visualization",
    "keras._tf_keras.keras.wrappers",
    "keras._tf_keras.keras.visualization",
)


def load_keras() -> None:
    """Import TensorFlow and Keras, unless a script has done so itself: what it made since then is not permanent."""
    if "tensorflow" in sys.modules:
        return
    put_off()
    with _no_collection():
        import keras  # noqa: F401
        import tensorflow  # noqa: F401


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let the garbage collector rest; what there is at the end, it takes for permanent."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def put_off() -> None:
    """Let unused modules, where they are not imported yet, load with the first look at one of their names."""
    sys.meta_path.insert(0, _Finder(frozenset(UNUSED_BY_TRAINING)))


class _Finder(MetaPathFinder):
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """Return the usual spec with a loader that waits."""
        spec = PathFinder.find_spec(fullname, path) if fullname in self._names else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Waiting(spec.loader)
        return spec


class _Waiting(Loader):
    """Keeps the loader that does the work for later."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the usual way."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Only mark the module."""
        module.__class__ = _Unloaded


class _Unloaded(ModuleType):
    """A module of which nothing but its place is known."""

    def __getattribute__(self, name: str) -> Any:
        # The import system asks for names such as __path__, and whoever walks through all modules (inspect) for
        # __wrapped__; they use nothing. Parts imported by themselves must not hide what the whole module makes of them.
        if name == "__all__" or not name.startswith("__"):
            _load(self)
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> Iterable[str]:
        _load(self)
        return dir(self)


def _load(module: ModuleType) -> None:
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, _Waiting)
    module.__class__ = ModuleType
    spec.loader = module.__loader__ = spec.loader.loader
    spec.loader.exec_module(module)
