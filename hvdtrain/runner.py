"""Starting a run's script and seeing it through: signals go down, the exit code comes up, nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from hvdtrain.errors import ExitCode
from hvdtrain.facts import search_path

# After a stop was asked for, processes get this long before they are killed.
STOP_GRACE_S = 5.0


def execute(
    command: Sequence[str], *, environ: Mapping[str, str], noise: IO[bytes] | None = None, inherited: Sequence[int] = ()
) -> int:
    """Run a command in a session of its own until it and all it started have ended; return its exit code.

    SIGINT, SIGTERM and SIGHUP are passed on as SIGTERM; what is left after a grace period is killed.

    Args:
        command: What to run.
        environ: Its whole environment.
        noise: Where the launcher's banners go instead of the terminal; None leaves them where they are.
        inherited: Descriptors that the command has open as well.

    Returns:
        The exit code; 128 + N if the command died of signal N, and 130 when the user stopped it.
    """
    process = subprocess.Popen(
        command,
        env=dict(environ),
        start_new_session=True,
        stderr=subprocess.PIPE if noise else None,
        pass_fds=inherited,
    )
    relay = _start_relay(process, noise)
    with _passing_signals(process) as stopped:
        code = process.wait()
        end_group(process.pid)
    if relay is not None:
        relay.join(timeout=STOP_GRACE_S)
    if stopped:
        return int(ExitCode.INTERRUPTED) if stopped[0] == signal.SIGINT else 128 + stopped[0]
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """While inside, the first signal ends the process politely, a second one at once."""
    received: list[int] = []
    members: set[int] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        members.update(descendants(process.pid))
        if received:
            kill_all({process.pid, *members})
            return
        received.append(number)
        print("\nstopping all ranks (once more to kill them) ...", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        timer = threading.Timer(STOP_GRACE_S, lambda: kill_all({process.pid, *members, *descendants(process.pid)}))
        timer.daemon = True
        timer.start()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        kill_all(members)


def descendants(pid: int) -> set[int]:
    """Return all processes below one, read from /proc."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                new = {int(child) for child in children.read_text().split()} - found
                found |= new
                waiting += new
    return found


def kill_all(pids: set[int]) -> None:
    """Send SIGKILL; those that have ended already do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def end_group(pid: int) -> None:
    """Kill what is left of a process group whose leader has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def rank_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a job script: this Python, and its directory first on PATH."""
    bar = "bar" if sys.stderr.isatty() else "plain"
    return {**environ, "PATH": search_path(), "HVDTRAIN_PYTHON": sys.executable, "HVDTRAIN_PROGRESS": bar}


# -- the launcher's banners ---------------------------------------------------------------------


def _start_relay(process: subprocess.Popen[bytes], noise: IO[bytes] | None) -> threading.Thread | None:
    if noise is None or process.stderr is None:
        return None
    sieve = BannerSieve(sys.stderr.buffer, noise)

    def relay(stream: IO[bytes]) -> None:
        while chunk := os.read(stream.fileno(), 65536):
            sieve.feed(chunk)
        sieve.close()

    thread = threading.Thread(target=relay, args=(process.stderr,), daemon=True)
    thread.start()
    return thread


class BannerSieve:
    """Keeps mpirun's closing banners away from the terminal, so that the first error stays the last thing seen.

    Open MPI frames them in lines of dashes. Everything else passes through as it comes, half lines too.
    """

    FRAME = re.compile(rb"^-{40,}\s*$")

    def __init__(self, out: Any, noise: Any) -> None:
        self._out = out
        self._noise = noise
        self._held = b""
        self._in_banner = False

    def feed(self, chunk: bytes) -> None:
        """Take some bytes."""
        for piece in re.findall(rb"[^\n\r]*[\n\r]|[^\n\r]+$", chunk):
            self._held += piece
            is_whole = self._held.endswith((b"\n", b"\r"))
            if not is_whole and (self._in_banner or self._held.startswith(b"-")):
                continue  # wait for the rest of the line
            self._pass(self._held)
            self._held = b""
        self._out.flush()

    def close(self) -> None:
        """Pass on what is held back."""
        self._pass(self._held)
        self._held = b""
        self._out.flush()
        self._noise.flush()

    def _pass(self, line: bytes) -> None:
        if self.FRAME.match(line):
            self._in_banner = not self._in_banner
            self._noise.write(line)
        else:
            (self._noise if self._in_banner else self._out).write(line)
