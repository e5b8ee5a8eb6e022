"""Whether something on this machine trains in a directory: two at once would overwrite each other's state."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hvdtrain.errors import ConfigError
from hvdtrain.rundir import RunDir


@contextlib.contextmanager
def held(lock: Path, refusal: str) -> Iterator[tuple[int, ...]]:
    """Hold a lock; yield the descriptors that processes must inherit to hold it as well.

    What holds it is the open file, in this process and those that inherit it: the last one that ends, by whatever
    signal, lets it go. Where the file system knows no locks nobody is kept out.

    Args:
        lock: The file; made if it is not there.
        refusal: What to say if others hold it.

    Raises:
        ConfigError: If others hold it.
    """
    descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(refusal) from None
        except OSError:
            yield ()
            return
        yield (descriptor,)
    finally:
        os.close(descriptor)


def is_held(lock: Path) -> bool | None:
    """Tell whether something on this machine holds a lock; None where that cannot be known."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def used(run: RunDir) -> contextlib.AbstractContextManager[tuple[int, ...]]:
    """Keep others out of a run directory; see `held`."""
    return held(run.in_use, _refusal(run))


def is_used(run: RunDir) -> bool | None:
    """Tell whether something on this machine trains in a run directory; None where that cannot be known."""
    return is_held(run.in_use)


def refuse_used(run: RunDir) -> None:
    """Raise if something on this machine trains in a run directory.

    Raises:
        ConfigError: With what to do.
    """
    if is_used(run):
        raise ConfigError(_refusal(run))


def _refusal(run: RunDir) -> str:
    return (
        f"run {run.short_id} is being trained on this machine, and two may not train in one run directory: wait for "
        "it, or stop it with Ctrl-C where it was started"
    )
