"""Show that a long command lives, keep what it prints, and end its whole family when interrupted."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from hvdtrain.signals import handled

PLAIN_INTERVAL_S = 20.0
# "  [ 45%] Building CXX object horovod/tensorflow/CMakeFiles/tensorflow.dir/mpi_ops.cc.o"
STEP = re.compile(r"\[ *(\d+)%\] .*?([^\s/]+)\s*$")


class Progress:
    """One phase at a time: a line that is rewritten on a terminal, a plain line every 20 s elsewhere.

    Args:
        stream: Where to talk; never stdout.
        clock: Seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._phase = ""
        self.detail = ""
        self._started = self._last_shown = clock()

    def begin(self, phase: str) -> None:
        """Start a phase; its name is shown at once."""
        self._phase, self.detail = phase, ""
        self._started = self._clock()
        self._show()

    def note(self, line: str) -> None:
        """Take the percentage and the file from a line of a build, if it has them.

        >>> progress = Progress()
        >>> progress.note("  [ 99%] Linking CXX shared library /a/b/mpi_lib.so")
        >>> progress.detail
        ' 99 %  mpi_lib.so'
        """
        match = STEP.search(line)
        if match:
            self.detail = f"{match.group(1):>3} %  {match.group(2).removesuffix('.o')}"

    def tick(self) -> None:
        """Show the elapsed time again when it is time to."""
        if self._stream.isatty() or self._clock() - self._last_shown >= PLAIN_INTERVAL_S:
            self._show()

    def end(self) -> None:
        """Finish the phase with its duration."""
        self._write(f"{self._phase}: done in {self._clock() - self._started:.0f} s", is_last=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._write(text, is_last=True)

    def _show(self) -> None:
        elapsed_s = self._clock() - self._started
        time_text = f"  {elapsed_s:.0f} s" if elapsed_s >= 1 else ""
        self._write(f"{self._phase} ...{time_text}  {self.detail}".rstrip(), is_last=False)
        self._last_shown = self._clock()

    def _write(self, text: str, *, is_last: bool) -> None:
        if self._stream.isatty():
            if not is_last:
                text = text[: shutil.get_terminal_size().columns - 1]
            # Erase the line, then write it anew.
            self._stream.write(f"\r\x1b[2K{text}" + ("\n" if is_last else ""))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()


def run_logged(
    command: Sequence[str], *, log: Path, environ: Mapping[str, str], cwd: Path | None, progress: Progress
) -> int:
    """Run a command, its output appended to `log`; return its exit code. If interrupted, end all its children."""
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for chunk in _chunks(process):
                file.write(chunk)
                for line in chunk.decode(errors="replace").splitlines():
                    progress.note(line)
                progress.tick()
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _chunks(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what the process prints, and nothing (b"") once a second while it is silent."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1.0):
                yield b""
                continue
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return
            yield chunk


def run_to_the_end(command: Sequence[str], *, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a short command that must not stop half-way: Ctrl-C takes effect after its end."""
    interrupts: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)

    with handled({signal.SIGINT: remember, signal.SIGTERM: remember, signal.SIGHUP: remember}):
        result = subprocess.run(
            command,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            # The terminal sends Ctrl-C to its whole process group; the command is not in it.
            start_new_session=True,
        )
    if interrupts:
        raise KeyboardInterrupt
    return result
