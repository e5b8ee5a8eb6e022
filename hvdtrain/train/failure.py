"""How a rank fails: it says so first, leaves a record, and ends at once so that its launcher stops the others.

Only the standard library: this must work when nothing else does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import TextIO

from hvdtrain.errors import ExitCode, HvdtrainError, UserCodeError

# A rank whose peer has failed waits this long for the launcher to end it, so that the first error stays on top.
GRACE_S = 5.0
# A checkpoint that is being written, here or by rank 0, gets this long before this process ends.
SAVE_S = 60.0


class PeerFailedError(HvdtrainError):
    """Another rank found an error and reports it."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(f"rank {rank} reports an error")
        self.exit_code = ExitCode(code) if code in list(ExitCode) else ExitCode.RANK_LOST


def is_echo(error: BaseException) -> bool:
    """Tell whether an error only says that another rank has gone."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, PeerFailedError):
        return True
    text = str(error)
    echoes = ("Horovod has been shut down", "HorovodAllreduce", "wait for its gradients in vain")
    return "HorovodInternalError" in names or any(echo in text for echo in echoes)


def explained(error: BaseException) -> BaseException:
    """Return the explained error inside one that TensorFlow made of it, because it was raised in a data pipeline.

    >>> class UnknownError(Exception): __module__ = "tensorflow.python"
    >>> explained(UnknownError("UserCodeError: too short\\nTraceback ..."))
    UserCodeError('too short')
    """
    found = re.search(r"\bUserCodeError: (.+)", str(error))
    return UserCodeError(found[1]) if found and type(error).__module__.startswith("tensorflow") else error


def fail(error: BaseException, *, rank: int, record: Path | None, console: TextIO | None = None) -> None:
    """Report an error and end this process with its exit code. Does not return.

    Args:
        error: What was raised.
        rank: Who failed.
        record: Where to leave the record; the first rank to create it for an explained error speaks.
        console: Where people look.
    """
    console = console or sys.stderr
    error = explained(error)
    code = exit_code(error)
    if is_echo(error):
        time.sleep(GRACE_S)
        text = f"rank {rank}: another rank ended before this one"
    elif isinstance(error, HvdtrainError):
        text = f"hvdtrain: {error}"
    else:
        text = f"[rank {rank}] " + "".join(traceback.format_exception(error)).rstrip()
    is_first = _write_record(record, error, rank, code)
    if is_first and not (isinstance(error, HvdtrainError) and rank != 0 and _rank0_speaks(record)):
        print(text, file=console, flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    _finish_saves(console)
    _leave_node()
    os._exit(code)


def _finish_saves(console: TextIO) -> None:
    """Let a checkpoint that is being written come to the disk, and say so if it cannot.

    Before other ranks or the launcher notice that this one leaves: they would end rank 0, which writes.
    """
    background = sys.modules.get("hvdtrain.train.background")
    for text in background.finish_all(SAVE_S) if background is not None else []:
        print(f"hvdtrain: {text}", file=console, flush=True)


def _leave_node() -> None:
    """Let ranks that wait in shared memory go, and remove staged copies that are not to stay."""
    for name in ("hvdtrain.train.node_mean", "hvdtrain.train.stage_local"):
        if module := sys.modules.get(name):
            module.leave()


def exit_code(error: BaseException) -> int:
    """Return the exit code an error stands for; an exception in user code is 1.

    >>> exit_code(ValueError("x"))
    1
    """
    if isinstance(error, HvdtrainError):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if is_echo(error):
        return int(ExitCode.RANK_LOST)
    return 1


def _rank0_speaks(record: Path | None) -> bool:
    """Tell whether rank 0 fails as well within a second: explained errors mostly come to all ranks together."""
    deadline = time.monotonic() + 1.0
    while record is not None and time.monotonic() < deadline:
        if record.with_name("rank_0000.error.json").exists():
            return True
        time.sleep(0.05)
    return False


def _write_record(record: Path | None, error: BaseException, rank: int, code: int) -> bool:
    """Leave the record; return False if another process of the same rank already left one."""
    if record is None:
        return True
    entry = {
        "rank": rank,
        "exit_code": code,
        "error": type(error).__name__,
        "message": str(error),
        "is_echo": is_echo(error),
        "is_explained": isinstance(error, HvdtrainError),
        "time": time.time(),
        "traceback": traceback.format_exception(error),
    }
    try:
        with open(record, "x", encoding="utf-8") as file:
            json.dump(entry, file, indent=1)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def forget_earlier_failure(record: Path) -> None:
    """Delete the record that an earlier start of this run left; one from this start stays.

    Copies of one rank that were started together by mistake each see the other's record, and one of them speaks.
    """
    with contextlib.suppress(OSError):
        if record.stat().st_mtime < _process_start():
            record.unlink()


def _process_start() -> float:
    """Return when the system started this process, in seconds since 1970."""
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # field 22 of proc(5)
    return time.time() - max(0.0, uptime_s - ticks / os.sysconf("SC_CLK_TCK"))


def install_excepthook(rank: int) -> None:
    """Make an uncaught exception of a user's script end its rank at once, traceback first."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _finish_saves(sys.stderr)
            _leave_node()
            os._exit(int(ExitCode.INTERRUPTED))
        fail(error.with_traceback(trace), rank=rank, record=None)

    sys.excepthook = hook
