"""What rank 0 tells people while it trains: plain lines, or a line that rewrites itself on a terminal.

Everything goes to standard error; the other ranks' and TensorFlow's own words go to their logs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, TextIO


class Console:
    """Where rank 0 speaks; silent on other ranks.

    Args:
        stream: Standard error, or None for silence.
        has_bar: Whether a line may be rewritten.
    """

    def __init__(self, stream: TextIO | None, *, has_bar: bool) -> None:
        self._stream = stream
        self._has_bar = has_bar
        self._open = 0

    def say(self, text: str) -> None:
        """Print a line."""
        if self._stream is not None:
            self._clear()
            print(text, file=self._stream, flush=True)

    def bar(self, done: int, total: int, text: str) -> None:
        """Draw progress over the line before."""
        if self._stream is None or not self._has_bar:
            return
        width = 24
        filled = int(width * done / max(1, total))
        line = f"  [{'=' * filled}{' ' * (width - filled)}] {done}/{total} {text}"
        self._stream.write("\r" + line.ljust(self._open))
        self._stream.flush()
        self._open = len(line)

    def _clear(self) -> None:
        if self._open and self._stream is not None:
            self._stream.write("\r" + " " * self._open + "\r")
            self._open = 0


class Tee:
    """A text stream that also writes to a second one: what the user's code prints on rank 0."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._streams = (first, second)

    def write(self, text: str) -> int:
        """Write to both."""
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        for stream in self._streams:
            stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streams[0], name)


def redirect_to_log(log: Path, *, is_rank0: bool) -> TextIO:
    """Send this process's output, native libraries' too, to its log, and return the console.

    On rank 0 what Python code prints to standard output is shown as well.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    console = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    file = open(log, "a", buffering=1, encoding="utf-8", errors="replace")  # noqa: SIM115  lives as long as the process
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    if is_rank0:
        sys.stdout = Tee(sys.stdout, console)
    return console
