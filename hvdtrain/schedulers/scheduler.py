"""What a scheduler is to hvdtrain: its words in a batch script, and its programs. Adding one is one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hvdtrain.launch.request import Setting
from hvdtrain.schedulers.layout import Layout

if TYPE_CHECKING:
    from hvdtrain.config import Config

ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STOPPED")


@dataclass(frozen=True)
class QueueEntry:
    """One job as the queue shows it.

    Args:
        job_id: `1234`, or `1234_5` for a task of an array.
        state: In Slurm's words: PENDING, RUNNING, COMPLETED ...
        reason: Why it waits or how it ended; `None` where there is nothing to say.
    """

    job_id: str
    state: str
    reason: str

    @property
    def is_active(self) -> bool:
        """Whether it waits, runs, or is about to end."""
        return self.state in ACTIVE


@dataclass(frozen=True)
class Words:
    """A scheduler's words in a batch script, as lines of bash.

    Args:
        directive: What an option's line begins with.
        job_id: The job's id.
        task_id: The id of an array's task.
        array_index: The task's index in an array.
        prefixes: Beginnings of the names of variables that tell the job about itself.
        begin: Lines before everything else.
        is_active: A function `is_active` that tells whether a job runs; where that cannot be asked, it does.
        is_ours: Lines that set `ours` to `yes` where the job may be queued again by us.
        requeue: A command that queues job `$job` again; None where a script cannot do that.
        num_requeues: How often it has been queued again.
        timer: Lines that send USR1 after some `{seconds}`, where the scheduler sends no signal before the limit.
        end_of_timer: Lines that end it.
    """

    directive: str
    job_id: str
    task_id: str
    array_index: str
    prefixes: tuple[str, ...]
    is_active: str
    is_ours: tuple[str, ...] = ()
    requeue: str | None = None
    num_requeues: str = "0"
    begin: tuple[str, ...] = ()
    timer: str | None = None
    end_of_timer: str = ""


class Scheduler(Protocol):
    """A scheduler: rendering is pure, the rest calls its programs."""

    name: str
    words: Words

    def directives(self, config: Config, layout: Layout) -> Iterator[Setting]:
        """Yield the options that a job's script carries."""
        ...

    def submit(
        self,
        script: Path,
        argument: str,
        log: str,
        environ: Mapping[str, str],
        *,
        pass_names: Sequence[str],
        is_array: bool,
    ) -> str:
        """Hand over a script and return the job's id.

        Args:
            script: The batch script.
            argument: Its argument, the run directory; of arrays without `.INDEX`.
            log: Folder for the job's log; of arrays that of task `INDEX`, literally.
            environ: The user's environment.
            pass_names: Names the job gets besides those that ranks always see.
            is_array: Whether it is an array.

        Raises:
            EnvironmentNotFitError: If there is no such scheduler here, or it refuses the job.
        """
        ...

    def queue(self) -> dict[str, QueueEntry]:
        """Return the user's jobs by id, in one query."""
        ...

    def details(self, job_id: str) -> dict[str, str]:
        """Return what is still known about a job, by Slurm's names; empty if it is forgotten."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job at once."""
        ...

    def requeue(self, job_id: str) -> None:
        """Queue a job again."""
        ...
