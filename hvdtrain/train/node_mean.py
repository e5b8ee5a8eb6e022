"""Averaging gradients through the memory that the ranks of one machine share, inside the training step.

Horovod hands each gradient to a thread of its own, which talks to the other ranks' threads before it moves a byte.
Where all ranks are on one machine that costs more than the sum itself; see `native/node_mean.cc` for what is done
instead. The order of the additions never changes, so all ranks get the same bits, in every run.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from hvdtrain import native
from hvdtrain.errors import EnvironmentNotFitError
from hvdtrain.train import compat
from hvdtrain.train.nonfinite import Averaged

SHARED_MEMORY = Path("/dev/shm")
DTYPES = (tf.float32, tf.float64, tf.float16, tf.bfloat16)
# How long a rank with a core of its own watches for the others before it sleeps: longer than ranks usually differ.
SPIN_US = 300
MAX_RANKS = 1024

_libraries: list[ctypes.CDLL] = []


class NodeMean:
    """The mean over ranks that share memory.

    Args:
        library: The compiled operation.
        token: What all ranks' files are named after.
        rank: This rank.
        size: All ranks.
        spin_us: Microseconds to watch before sleeping.
        capacity: Bytes of shared memory that may be used, the same number on every rank.
    """

    def __init__(self, library: Path, *, token: str, rank: int, size: int, spin_us: int, capacity: int) -> None:
        self._operation = tf.load_op_library(str(library)).hvdtrain_node_mean
        self._token = token
        self._rank, self._size = rank, size
        self._spin_us = spin_us
        self._bytes_left = capacity
        self._segments: set[str] = set()
        _libraries.append(ctypes.CDLL(str(library)))

    def takes(self, tensors: Sequence[tf.Tensor], name: str) -> bool:
        """Tell whether these tensors, of one dtype, can go this way; all ranks get the same answer."""
        segment = self._segment(tensors, name)
        if segment in self._segments:
            return True
        dtype = tensors[0].dtype
        parts = 1 if self._size == 2 else self._size + 1  # of more than two ranks each has one, and so has the result
        needed = dtype.size * sum(tensor.shape.num_elements() for tensor in tensors) * parts
        if dtype not in DTYPES or needed > self._bytes_left:
            return False
        self._segments.add(segment)
        self._bytes_left -= needed
        return True

    def mean(self, tensors: Sequence[tf.Tensor], name: str) -> Averaged:
        """Return the mean of each tensor over all ranks. Works inside `tf.function`.

        One mean waits for the one before it: TensorFlow would start them in any order, and a rank that holds its
        threads in one of them waits in vain for ranks that hold theirs in another.
        """
        segment = self._segment(tensors, name)
        notes = compat.graph_notes()
        with tf.control_dependencies([notes["last_mean"]] if "last_mean" in notes else []):
            result = self._operation(
                tensors=tensors, segment=segment, rank=self._rank, size=self._size, spin_us=self._spin_us
            )
        notes["last_mean"] = result.means[0]
        for mean, tensor in zip(result.means, tensors, strict=True):
            mean.set_shape(tensor.shape)
        return Averaged(list(result.means), result.nonfinite)

    def _segment(self, tensors: Sequence[tf.Tensor], name: str) -> str:
        """Return the file that serves tensors of these sizes: a function traced again on one rank alone finds it."""
        sizes = [tensor.shape.num_elements() for tensor in tensors]
        digest = zlib.crc32(repr((name, tensors[0].dtype.name, sizes)).encode())
        return str(SHARED_MEMORY / f"hvdtrain-{self._token}-{digest:08x}")


def join(comm: Any, cores: Sequence[int], environ: Mapping[str, str], *, has_gpu: bool) -> tuple[NodeMean | None, str]:
    """Return the mean that all ranks can use together and "", or None and the reason.

    Args:
        comm: The ranks, with `gather_json`.
        cores: This rank's cores.
        environ: The process environment; HVDTRAIN_REDUCTION is `auto`, `horovod` or `shared_memory`.
        has_gpu: Whether gradients are on a GPU.

    Raises:
        EnvironmentNotFitError: If HVDTRAIN_REDUCTION insists on shared memory and the ranks do not share any.
    """
    asked = environ.get("HVDTRAIN_REDUCTION", "auto")
    library = native.library_path(tf.__version__, environ)
    obstacle = _obstacle(comm, library, asked, has_gpu=has_gpu)
    token = secrets.token_hex(8)
    meeting_place = SHARED_MEMORY / f"hvdtrain-{token}"
    if comm.rank == 0 and not obstacle:
        meeting_place.touch()
    try:
        mine = {"obstacle": obstacle, "token": token, "free": _free_bytes(), "cores": list(cores)}
        everybody = comm.gather_json(mine, name="node_mean")
        token = everybody[0]["token"]
        obstacles = [entry["obstacle"] for entry in everybody]
        sees_it = (SHARED_MEMORY / f"hvdtrain-{token}").exists()
        if not all(comm.gather_json(sees_it, name="node_mean_seen")):
            obstacles.append("the ranks do not see the same /dev/shm")
    finally:
        meeting_place.unlink(missing_ok=True)
    reason = next((obstacle for obstacle in obstacles if obstacle), "")
    if reason:
        if asked == "shared_memory":
            raise EnvironmentNotFitError(f"horovod.reduction: shared_memory: {reason}")
        return None, reason
    num_cores = len({core for entry in everybody for core in entry["cores"]})
    node_mean = NodeMean(
        library,
        token=token,
        rank=comm.rank,
        size=comm.size,
        spin_us=SPIN_US if num_cores >= comm.size else 0,
        capacity=min(entry["free"] for entry in everybody) // 2,
    )
    return node_mean, ""


def _obstacle(comm: Any, library: Path, asked: str, *, has_gpu: bool) -> str:
    if asked == "horovod":
        return "horovod.reduction says so"
    if comm.local_size != comm.size or comm.size > MAX_RANKS:
        return "the ranks are on several machines"
    if has_gpu:
        return "gradients are on GPUs"
    if not os.access(SHARED_MEMORY, os.W_OK):
        return f"{SHARED_MEMORY} cannot be written"
    if not library.exists():
        return f"{library} is not there (fix: hvdtrain build-horovod)"
    return ""


def _free_bytes() -> int:
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def leave() -> None:
    """Tell ranks that wait for this one that it does not come any more."""
    for library in _libraries:
        library.hvdtrain_node_leave()
