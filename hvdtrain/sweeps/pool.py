"""Several runs at a time on this machine, each on cores and GPUs of its own; at a signal all of them save and stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

from hvdtrain.cli.show import talk
from hvdtrain.errors import ExitCode, HvdtrainError
from hvdtrain.in_use import used
from hvdtrain.jobs import bash, clear_leftovers
from hvdtrain.rundir import RunDir, write_text
from hvdtrain.runner import descendants, end_group, kill_all
from hvdtrain.signals import handled

POLL_S = 0.1
SAVE_GRACE_S = 120.0  # for a step, a save, and a TensorFlow that is still starting
T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A part of the machine that one run has to itself."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...] = ()


def make_slots(cores: Sequence[int], gpus: Sequence[str], count: int) -> list[Slot]:
    """Return equal parts of a machine; with more parts than cores, parts share them.

    >>> make_slots([0, 1, 2, 3, 4], ["0", "1"], 2)
    [Slot(cores=(0, 1), gpus=('0',)), Slot(cores=(2, 3), gpus=('1',))]
    """
    num_cores, num_gpus = max(1, len(cores) // count), len(gpus) // count
    firsts = [place * num_cores % max(1, len(cores)) for place in range(count)]
    return [
        Slot(tuple(cores[first : first + num_cores]), tuple(gpus[place * num_gpus : (place + 1) * num_gpus]))
        for place, first in enumerate(firsts)
    ]


@dataclass(frozen=True)
class Started(Generic[T]):
    """A run that is under way."""

    what: T
    run: RunDir
    slot: Slot
    process: subprocess.Popen[bytes]
    began: float


@dataclass(frozen=True)
class Ended(Generic[T]):
    """A run that has ended: what it was, its exit code, and how long this start took in seconds."""

    what: T
    run: RunDir
    code: int
    seconds: float


class Pool(Generic[T]):
    """Runs what waits, as many at a time as there are slots.

    Args:
        slots: Parts of the machine.
        environ: Environment of the runs' scripts, which must hand HVDTRAIN_BATCH to the ranks: they look for STOP.
        run_of: Returns a run directory.
        begin: Makes it ready to be started in a slot; an HvdtrainError is the failure of this run alone.
        ended: Told of each run that has ended by itself; returns whether to go on.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        environ: Mapping[str, str],
        *,
        run_of: Callable[[T], RunDir],
        begin: Callable[[T, RunDir, Slot], None],
        ended: Callable[[Ended[T]], bool],
    ) -> None:
        self._free = list(slots)
        self._environ = dict(environ)
        self._run_of = run_of
        self._begin = begin
        self._ended = ended
        self._active: list[Started[T]] = []
        self._signals: list[int] = []

    def run(self, waiting: Sequence[T]) -> int:
        """Run everything; return 0, or the exit code of a signal that stopped it, with all states saved.

        No run goes on without this one: an exception stops all of them first.
        """
        with self._noting_signals():
            try:
                self._see_through(deque(waiting))
            except BaseException:
                self._stop_saving()
                raise
        if not self._signals:
            return int(ExitCode.OK)
        return int(ExitCode.INTERRUPTED) if self._signals[0] == signal.SIGINT else 128 + self._signals[0]

    def _see_through(self, queue: deque[T]) -> None:
        while (queue and not self._signals) or self._active:
            if self._signals:
                self._stop_saving()
                return
            ended: list[Ended[T]] = []
            while queue and self._free and not ended:
                ended += self._start(queue.popleft())
            time.sleep(POLL_S)
            if not all([self._ended(one) for one in [*ended, *self._take_ended()]]):
                queue.clear()
                self._stop()

    def _start(self, what: T) -> list[Ended[T]]:
        """Start a run in a free slot; return its end if it cannot be made ready."""
        slot, run = self._free.pop(0), self._run_of(what)
        try:
            self._begin(what, run, slot)
        except HvdtrainError as error:
            talk(f"hvdtrain: {error}")
            write_text(run.exit, f"{error.exit_code:d}\n")
            self._free.append(slot)
            return [Ended(what, run, int(error.exit_code), 0.0)]
        environ = self._environ | ({"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)} if slot.gpus else {})
        with used(run) as held, open(run.launcher_log, "wb") as log, bound_to(slot.cores):
            process = subprocess.Popen(
                [bash(), str(run.script), str(run.path)],
                env=environ,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                pass_fds=held,
                stdout=log,
                stderr=log,
            )
        self._active.append(Started(what, run, slot, process, time.monotonic()))
        return []

    def _take_ended(self) -> list[Ended[T]]:
        ended = []
        for one in [one for one in self._active if one.process.poll() is not None]:
            end_group(one.process.pid)
            self._active.remove(one)
            self._free.append(one.slot)
            code = one.process.returncode
            code = 128 - code if code < 0 else code
            clear_leftovers(one.run)
            if code and one.run.exit_code() is None:  # killed before it could say so itself
                write_text(one.run.exit, f"{code}\n")
            ended.append(Ended(one.what, one.run, code, time.monotonic() - one.began))
        return ended

    def _stop_saving(self) -> None:
        if self._active:
            talk(f"\n{len(self._active)} trial(s) save their state and stop (once more to kill) ...")
        self._stop()

    def _stop(self) -> None:
        """Ask all runs to save and end; a second signal, too long a wait, or an error here kills them."""
        try:
            for one in self._active:
                write_text(one.run.stop, "the sweep was stopped\n")
            self._await_ends()
        finally:
            self._kill()

    def _await_ends(self) -> None:
        deadline, asked = time.monotonic() + SAVE_GRACE_S, len(self._signals)
        while self._active:
            if len(self._signals) > asked or time.monotonic() > deadline:
                self._kill()
            time.sleep(POLL_S)
            for ended in self._take_ended():
                if ended.run.exit_code() != ExitCode.STOPPED:  # killed by us: it is no failure of its own
                    ended.run.exit.unlink(missing_ok=True)

    def _kill(self) -> None:
        for one in self._active:
            kill_all({*descendants(one.process.pid), one.process.pid})

    @contextlib.contextmanager
    def _noting_signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._signals.append(number)

        with handled({number: note for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}):
            yield


@contextlib.contextmanager
def bound_to(cores: Sequence[int]) -> Iterator[None]:
    """Let processes that are started meanwhile run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
