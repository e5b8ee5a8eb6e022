"""Processes that exchange numbers through files, so that arms without communication start together as well."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

POLL_S = 0.0005


class Meeting:
    """A place where all ranks of one launch exchange values; each exchange is also a barrier.

    Args:
        directory: Shared by the ranks.
        rank: This process.
        size: All processes.
        timeout_s: After this long without the others the launch has failed.
    """

    def __init__(self, directory: Path, rank: int, size: int, timeout_s: float = 300.0) -> None:
        self._directory = directory
        self.rank = rank
        self.size = size
        self._timeout_s = timeout_s
        self._count = 0

    def exchange(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order.

        Raises:
            TimeoutError: If another rank does not come.
        """
        self._count += 1
        mine = self._place(self.rank)
        temporary = mine.with_suffix(".tmp")
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.rename(temporary, mine)
        return [self._wait(self._place(rank)) for rank in range(self.size)]

    def _place(self, rank: int) -> Path:
        return self._directory / f"meeting_{self._count:04d}_rank_{rank:04d}.json"

    def _wait(self, path: Path) -> Any:
        deadline = time.monotonic() + self._timeout_s
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path.name} did not appear within {self._timeout_s:g} s")
            time.sleep(POLL_S)
        return json.loads(path.read_text(encoding="utf-8"))
