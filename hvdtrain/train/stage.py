"""Staging: data copied from the shared file system to each node's own disk, each byte read once per job.

Every rank reads an even share of the bytes and sends it to one rank on each other node, which writes it; ranks of a
node share the copy. What one rank meets - a file that vanished, a full disk - stops all of them.
"""

from __future__ import annotations

import atexit
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvdtrain.sizes import size_text
from hvdtrain.train.agree import agreed, agreed_values
from hvdtrain.train.comm import Comm
from hvdtrain.train.stage_local import LocalCopy, disk_folder, hold, job_folder, leave
from hvdtrain.train.stage_source import Listing, Paths, find
from hvdtrain.train.stage_stream import nodes_of
from hvdtrain.train.stage_transfer import Transfer

atexit.register(leave)


def stage(
    paths: Paths,
    comm: Comm,
    *,
    to: str = "auto",
    keep: bool = True,
    environ: Mapping[str, str] = os.environ,
    say: Callable[[str], Any] = print,
) -> Any:
    """Copy files to this node's disk and return where they are; `hvdtrain.keras.stage` says more. A collective.

    Args:
        paths: A folder, a file, a pattern, or a list of files.
        comm: The ranks.
        to: `auto`, or a folder on every node's disk.
        keep: Whether the copy stays when the job has ended.
        environ: The process environment.
        say: Takes lines on the progress; called on rank 0.

    Raises:
        HvdtrainError: On all ranks, what went wrong on one of them first.
    """
    began = time.monotonic()
    paths = paths if isinstance(paths, (str, os.PathLike)) else list(paths)
    named = [str(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    at = f"stage({', '.join(named)}; to={to})"
    found = agreed_values(comm, lambda: _first_look(paths) if comm.rank == 0 else None, at)[0]
    listing, token = Listing.from_json(found["listing"]), found["token"]
    folder = agreed(comm, lambda: job_folder(disk_folder(to, environ), environ), at)
    nodes = _nodes(comm, folder, token)
    node = next(ranks for ranks in nodes if comm.rank in ranks)
    copy = LocalCopy(folder, listing, token)
    facts = {"keep": keep, "is_first": comm.rank == node[0], "is_folder": listing.is_folder}
    missing = agreed_values(comm, lambda: _prepare(copy, **facts), at)
    travelling, missing_here = sorted(set().union(*missing)), missing[node[0]]
    try:
        speaks = say if comm.rank == 0 else _say_nothing
        Transfer(comm, nodes, listing, copy, travelling, set(missing_here), speaks).run(at)
        agreed(comm, lambda: copy.finish(missing_here[node.index(comm.rank) :: len(node)]), at)
    finally:
        copy.discard()
    if comm.rank == 0:
        say(_summary(listing, travelling, copy, len(nodes), time.monotonic() - began))
    places = [copy.root / name for name in listing.wanted]
    return places[0] if listing.is_one else places


def _first_look(paths: Paths) -> dict[str, Any]:
    return {"listing": find(paths).to_json(), "token": uuid.uuid4().hex[:12]}


def _prepare(copy: LocalCopy, *, keep: bool, is_first: bool, is_folder: bool) -> list[int]:
    """Make the copy's folders; the first rank of a node returns what it lacks, once that is known to fit."""
    hold(copy.place, keep=keep)
    copy.make_folders()
    if not is_first:
        return []
    if is_folder:
        copy.prune()
    missing = copy.missing()
    copy.require_space(missing)
    return missing


def _nodes(comm: Comm, folder: Path, token: str) -> list[list[int]]:
    """Return the ranks that share a disk, by what each sees of the others' marks; host names would not tell."""
    marks = [folder / f".{token}.{rank}" for rank in range(comm.size)]
    agreed(comm, lambda: marks[comm.rank].touch(mode=0o600), "staging")
    seen = agreed_values(comm, lambda: [rank for rank, mark in enumerate(marks) if mark.exists()], "staging")
    marks[comm.rank].unlink()
    return nodes_of(seen)


def _say_nothing(text: str) -> None:
    """Take a line on a rank that does not talk."""


def _summary(listing: Listing, travelling: Sequence[int], copy: LocalCopy, num_nodes: int, seconds: float) -> str:
    num_bytes = sum(listing.files[number].size for number in travelling)
    there = len(listing.files) - len(travelling)
    nodes = f"on {num_nodes} nodes" if num_nodes > 1 else "on one node"
    text = f"staged {listing.root}: {len(travelling):,} files, {size_text(num_bytes)}, in {copy.root} {nodes}"
    text += f" ({seconds:.1f} s, {size_text(num_bytes / seconds)}/s, each byte read once)" if travelling else ""
    return text + (f"; {there:,} files were there already" if there else "")
