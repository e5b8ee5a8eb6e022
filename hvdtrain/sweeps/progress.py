"""What a sweep says while it trains: a line for each trial that ends, the best so far, and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hvdtrain.cli.show import duration, name_of, nice_path
from hvdtrain.errors import ExitCode
from hvdtrain.measuring import failure_words
from hvdtrain.study.sweep_space import title
from hvdtrain.study.sweep_table import FAILED, Outcome, Sweep, Task, ranked, work_left
from hvdtrain.sweeps.pool import Ended
from hvdtrain.sweeps.sweepdir import SweepDir, metric_names, outcome

ALIKE = 3  # trials that fail in the same way before anything has worked: the others would, too


class Progress:
    """Keeps count of trials that have ended.

    Args:
        directory: The sweep's.
        sweep: What was asked.
        say: Where lines go.
    """

    def __init__(self, directory: SweepDir, sweep: Sweep, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._sweep = sweep
        self._say = say
        self._found: dict[int, Outcome] = {}
        self._starting_s, self._training_s, self._starts, self._epochs = 0.0, 0.0, 0, 0  # of what has ended
        self._num_ended = self._num_tasks = 0
        self._failures: list[str] = []
        self._has_worked = False
        self.problem = ""
        self.code = int(ExitCode.OK)

    def begin(self, tasks: Sequence[Task], found: Sequence[Outcome]) -> None:
        """Take note of what is going to be trained."""
        self._found = {one.trial.number: one for one in found}
        self._num_tasks, self._num_ended = len(tasks), 0

    def ended(self, one: Ended[Task]) -> bool:
        """Say what has become of a trial; return whether the sweep goes on."""
        number = one.what.trial.number
        before = self._found[number]
        now = self._found[number] = outcome(one.run, one.what.trial, self._sweep.metric)
        self._num_ended += 1
        if now.state == FAILED:
            return self._failed(one, now)
        if now.score is None:
            names = ", ".join(metric_names(one.run)) or "none"
            self.problem, self.code = f"no trial has {self._sweep.metric!r}; there are {names}", int(ExitCode.CONFIG)
            return False
        self._has_worked = True
        self._training_s += now.seconds - before.seconds
        self._starting_s += max(0.0, one.seconds - (now.seconds - before.seconds))
        self._starts, self._epochs = self._starts + 1, self._epochs + max(0, now.epochs - before.epochs)
        self._say(
            f"{self._place} {self._sweep.metric} {now.score:.4f}  {title(one.what.trial)}  "
            f"(epoch {now.epochs}, {duration(one.seconds)}{self._best()}{self._left()})"
        )
        return True

    def _failed(self, one: Ended[Task], now: Outcome) -> bool:
        code = one.run.exit_code() or one.code
        has_ended_well = code in (int(ExitCode.OK), int(ExitCode.STOPPED))
        name = title(one.what.trial)
        words = f" {name}: {now.reason}" if has_ended_well else failure_words(one.run, name, code)
        self._say(f"{self._place}{words}")
        if now.is_final:
            return True
        self._failures.append(now.reason)
        first = self._failures[:ALIKE]
        if self._has_worked or len(first) < min(ALIKE, self._num_tasks) or len(set(first)) > 1:
            return True
        self.problem = (
            f"the first {len(first)} trials failed in the same way, so the others are not tried: {first[0]}\n"
            f"  log: {nice_path(one.run.log(0))}\n  once that is cured: hvdtrain sweep --resume "
            f"{name_of(self._directory)}   (what is wrong in the configuration needs a new sweep)"
        )
        self.code = one.run.exit_code() or one.code or 1
        return False

    @property
    def _place(self) -> str:
        width = len(str(self._num_tasks))
        return f"[{self._num_ended:>{width}}/{self._num_tasks}]"

    def _best(self) -> str:
        """Return who leads, among those that have trained as long as any."""
        first = ranked(self._sweep, list(self._found.values()))[0]
        return f"; best {first.score:.4f}, trial {first.trial.number}"

    def _left(self) -> str:
        starts, epochs = work_left(self._sweep, list(self._found.values()))
        if not self._epochs or not starts:
            return ""
        seconds = self._starting_s / self._starts * starts + self._training_s / self._epochs * epochs
        return f"; about {duration(seconds / self._sweep.width)} left"
