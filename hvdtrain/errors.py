"""What can go wrong, as exceptions that carry the exit code a script may test.

Every message says where, what was given, what is allowed and what to do. Nothing here imports TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every hvdtrain command (README, "Exit codes")."""

    OK = 0
    CONFIG = 2
    ENVIRONMENT = 3
    NOT_FOUND = 4
    CORRUPT = 65
    RANK_LOST = 69
    OUT_OF_SYNC = 70
    NO_SPACE = 73
    STOPPED = 75
    NO_PROGRESS = 93
    INTERRUPTED = 130


class HvdtrainError(Exception):
    """An error that is explained to the user in words, without a traceback."""

    exit_code: ExitCode = ExitCode.CONFIG


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration file.

    Printed as `path:line: key: message`; the parts that are unknown are left out.
    """

    message: str
    key: str = ""
    path: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(HvdtrainError):
    """The configuration, the command line or their combination is wrong; all problems found at once."""

    exit_code = ExitCode.CONFIG

    def __init__(self, problems: list[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PlanError(ConfigError):
    """The configuration is well formed, but its numbers cannot work together."""


class UserCodeError(HvdtrainError):
    """The user's model or data cannot be trained on; found before the first step."""

    exit_code = ExitCode.CONFIG


class EnvironmentNotFitError(HvdtrainError):
    """This machine or environment cannot run what was asked for."""

    exit_code = ExitCode.ENVIRONMENT


class NotFoundError(HvdtrainError):
    """A run, file or checkpoint that was named does not exist."""

    exit_code = ExitCode.NOT_FOUND


class CorruptError(HvdtrainError):
    """A checkpoint or data file is damaged, and no earlier valid one could take its place."""

    exit_code = ExitCode.CORRUPT


class OutOfSyncError(HvdtrainError):
    """The replicas do not hold the same values, or a value is not finite."""

    exit_code = ExitCode.OUT_OF_SYNC


class StoppedError(HvdtrainError):
    """Training was asked to stop, and has saved its state."""

    exit_code = ExitCode.STOPPED


class NoSpaceError(HvdtrainError):
    """The disk or quota is full."""

    exit_code = ExitCode.NO_SPACE
