"""The rounds in which staged files travel: every rank reads, sends, writes and checks; one rank's trouble stops all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hvdtrain.errors import CorruptError
from hvdtrain.sizes import size_text
from hvdtrain.train.agree import agreed, agreed_values
from hvdtrain.train.comm import Comm
from hvdtrain.train.stage_local import LocalCopy, digest
from hvdtrain.train.stage_source import Listing, Reader
from hvdtrain.train.stage_stream import Segment, Stream, piece_bytes, receivers

TELL_EVERY_S = 10.0

Places = list[tuple[int, Segment]]  # numbers of files in the listing, and runs of their bytes


@dataclass(frozen=True)
class _Arrived:
    """What came from one rank in one round."""

    places: Places
    data: np.ndarray
    digest: str


@dataclass
class _Step:
    """What one round writes, and what it waits for."""

    reading: Future[np.ndarray]
    arrived: Sequence[_Arrived]
    data: np.ndarray = None  # type: ignore[assignment]


class Transfer:
    """The rounds, on one rank.

    Args:
        comm: The ranks.
        nodes: The ranks of each node.
        listing: What is staged.
        copy: This node's.
        travelling: Numbers of the files that some node lacks.
        missing: Numbers of those that this one lacks.
        say: Takes lines on the progress.
    """

    def __init__(
        self,
        comm: Comm,
        nodes: Sequence[Sequence[int]],
        listing: Listing,
        copy: LocalCopy,
        travelling: Sequence[int],
        missing: set[int],
        say: Callable[[str], Any],
    ) -> None:
        self._comm, self._nodes, self._copy, self._say = comm, nodes, copy, say
        self._travelling, self._missing = travelling, missing
        files = [listing.files[number] for number in travelling]
        self._stream = Stream(tuple(file.size for file in files), comm.size, piece_bytes(len(nodes)))
        self._reader = Reader(listing.root, files)
        self._name = listing.root
        self._written: list[tuple[Places, str]] = []

    def run(self, at: str) -> None:
        """Read, send, write and check everything; each round ends only if it worked on all ranks."""
        begun = told = time.monotonic()
        arrived: list[_Arrived] = []
        with ThreadPoolExecutor(1) as ahead:
            reading = ahead.submit(self._read, 0)
            for number in range(self._stream.num_rounds):
                step = _Step(reading, arrived)
                digests = agreed_values(self._comm, partial(self._write_and_wait, step), at)
                reading = ahead.submit(self._read, number + 1)
                arrived = self._exchange(number, step.data, digests)
                now = time.monotonic()
                if now - told > TELL_EVERY_S:
                    told = now
                    self._tell((number + 1) / self._stream.num_rounds, now - begun)
            agreed(self._comm, lambda: self._finish_writing(arrived), at)

    def _read(self, number: int) -> np.ndarray:
        return self._reader.read(self._stream.piece(self._comm.rank, number))

    def _write_and_wait(self, step: _Step) -> str:
        self._write(step.arrived)
        step.data = step.reading.result()
        return digest(step.data)

    def _write(self, arrived: Sequence[_Arrived]) -> None:
        for one in arrived:
            if digest(one.data) != one.digest:
                raise CorruptError(f"staging {self._name}: bytes were changed on their way between ranks")
            places, data = self._wanted_here(one)
            self._copy.write(places, data)
            self._written.append((places, one.digest if len(data) == len(one.data) else digest(data)))

    def _finish_writing(self, arrived: Sequence[_Arrived]) -> None:
        self._write(arrived)
        for places, expected in self._written:
            self._copy.check(places, expected)

    def _wanted_here(self, one: _Arrived) -> tuple[Places, np.ndarray]:
        """Return the part of what came that this node lacks: another one may lack files that are here."""
        if all(number in self._missing for number, _ in one.places):
            return one.places, one.data
        ends = np.cumsum([segment.length for _, segment in one.places])
        parts = np.split(one.data, ends[:-1])
        wanted = [(place, part) for place, part in zip(one.places, parts, strict=True) if place[0] in self._missing]
        data = np.concatenate([np.empty(0, np.uint8), *(part for _, part in wanted)])
        return [place for place, _ in wanted], data

    def _exchange(self, number: int, data: np.ndarray, digests: Sequence[str]) -> list[_Arrived]:
        """Send what this rank has read to one rank on each node, and return what others sent here."""
        comm = self._comm
        received = {comm.rank: data}
        if len(self._nodes) > 1:
            to = set(receivers(comm.rank, self._nodes)) - {comm.rank}
            nothing = np.empty(0, np.uint8)
            parts = comm.send_bytes([data if rank in to else nothing for rank in range(comm.size)], name="stage")
            received |= {rank: part for rank, part in enumerate(parts) if rank != comm.rank}
        arrived = []
        for rank, part in received.items():
            piece = self._stream.piece(rank, number)
            if piece and comm.rank in receivers(rank, self._nodes):
                places = [(self._travelling[segment.file], segment) for segment in piece]
                arrived.append(_Arrived(places, part, digests[rank]))
        return arrived

    def _tell(self, share: float, seconds: float) -> None:
        done = share * self._stream.num_bytes
        self._say(
            f"staging {self._name}: {size_text(done)} of {size_text(self._stream.num_bytes)}, "
            f"{size_text(done / seconds)}/s, {seconds * (1 / share - 1):.0f} s left"
        )
