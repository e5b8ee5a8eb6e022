"""What is left of a directory of checkpoints when the power fails: a kill alone cannot show what fsync is for.

A journal notes what a row of saves does to the file system. `crashes` replays it up to every point and keeps only what
POSIX promises: file contents that were synced, directory entries that were synced, and of the later ones any subset.
"""

from __future__ import annotations

import builtins
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hvdtrain.train import durable


@dataclass
class Node:
    """A file, or a directory with what of it is on the disk and what was done to it since."""

    content: bytes | None = None
    entries: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[tuple[str, str, Node]] = field(default_factory=list)
    is_file: bool = False


class Journal:
    """What was done to the files below a directory, in order."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.ops: list[tuple[Any, ...]] = []

    def note(self, *op: Any) -> None:
        self.ops.append(op)

    def inside(self, path: Any, dir_fd: int | None = None) -> tuple[str, ...] | None:
        """Return a path's parts below the base, or None outside of it."""
        place = Path(os.path.abspath(path) if dir_fd is None else f"{os.readlink(f'/proc/self/fd/{dir_fd}')}/{path}")
        return place.relative_to(self.base).parts if place.is_relative_to(self.base) else None

    def noting(self, kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call that is noted once it has worked."""

        def call(*args: Any, dir_fd: int | None = None, **options: Any) -> Any:
            paths = [self.inside(path, dir_fd) for path in args[: 2 if kind == "rename" else 1]]
            options |= {} if dir_fd is None else {"dir_fd": dir_fd}
            result = real(*args, **options)
            if all(path is not None for path in paths):
                self.note(kind, *paths)
            return result

        return call

    def fsync(self, descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.note("sync", self.inside(path), None if path.is_dir() else path.read_bytes())

    def open(self, path: Any, mode: str, **options: Any) -> Any:
        file = builtins.open(path, mode, **options)  # noqa: SIM115  handed on
        if "w" in mode:
            self.note("create", self.inside(path))
        return file


@contextmanager
def recording(base: Path) -> Iterator[Journal]:
    """Note what this process does below a directory."""
    journal = Journal(base)
    with mock.patch.multiple(
        os,
        mkdir=journal.noting("mkdir", os.mkdir),
        rename=journal.noting("rename", os.rename),
        unlink=journal.noting("unlink", os.unlink),
        rmdir=journal.noting("rmdir", os.rmdir),
        fsync=journal.fsync,
    ), mock.patch.object(durable, "open", journal.open, create=True):
        yield journal


def after_crash(ops: list[tuple[Any, ...]], chance: random.Random) -> Node:
    """Replay operations and return the tree that a power failure right after them leaves, at worst."""
    root = Node()
    for kind, path, *rest in ops:
        if kind == "sync":
            _sync(_find(root, path), rest[0])
            continue
        if kind == "done":
            continue
        parent, name = _find(root, path[:-1]), path[-1]
        if kind in ("mkdir", "create"):
            _change(parent, "add", name, Node(is_file=kind == "create"))
        elif kind == "rename":
            assert path[:-1] == rest[0][:-1], "all renames stay within one directory"
            _change(parent, f"move {rest[0][-1]}", name, parent.entries[name])
        else:
            _change(parent, "remove", name, parent.entries[name])
    return _left(root, chance)


def _find(root: Node, path: tuple[str, ...]) -> Node:
    for name in path:
        root = root.entries[name]
    return root


def _sync(node: Node, content: bytes | None) -> None:
    if node.is_file:
        node.content = content
    else:
        node.synced, node.pending = dict(node.entries), []


def _change(parent: Node, what: str, name: str, node: Node) -> None:
    parent.pending.append((what, name, node))
    _apply(parent.entries, what, name, node)


def _apply(entries: dict[str, Node], what: str, name: str, node: Node) -> None:
    if what == "add":
        entries[name] = node
    else:
        entries.pop(name, None)
    if what.startswith("move "):
        entries[what.removeprefix("move ")] = node


def _left(node: Node, chance: random.Random) -> Node:
    if node.is_file:
        return node if node.content is not None else Node(bytes(chance.randrange(3)), is_file=True)
    entries = dict(node.synced)
    for op in node.pending:
        if chance.random() < 0.5:
            _apply(entries, *op)
    return Node(entries={name: _left(child, chance) for name, child in entries.items()})


def put(node: Node, path: Path) -> None:
    """Make a tree on the disk."""
    if node.is_file:
        path.write_bytes(node.content or b"")
        return
    path.mkdir()
    for name, child in node.entries.items():
        put(child, path / name)
