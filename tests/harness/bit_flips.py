"""One flipped bit in one replica: caught at the next check, or shown to be healed. `python -m tests.harness.bit_flips`.

A case is a number: it decides the optimizer, variable, element, bit, step and rank. Every 15th is a control, which
trains without the check: there the flip must go unnoticed.
"""

import re
from typing import Any

import keras
import numpy as np

from hvdtrain.errors import OutOfSyncError
from hvdtrain.train.callbacks import Finite, Setup, SyncProof
from hvdtrain.train.comm import Comm
from tests.harness import in_ranks
from tests.harness.trainee import KINDS, STEPS, Trainee, differing, set_element

NUM_CASES = 300 + 20
CONTROL_EVERY = 16
CONTROL = 15  # the first control
CHECK_EVERY = 4


class Flip(keras.callbacks.Callback):
    """Flip the case's bit after its step, on its rank; note the truth after every execution from then on."""

    def __init__(self, comm: Comm, trainee: Trainee, number: int) -> None:
        super().__init__()
        random = np.random.default_rng(number)
        self._comm, self._trainee = comm, trainee
        self.rank = int(random.integers(comm.size))
        executions = STEPS // trainee.steps_per_execution
        self.step = int(random.integers(1, executions)) * trainee.steps_per_execution
        self.name, variable = list(trainee.shared().items())[random.integers(len(trainee.shared()))]
        self.element = int(random.integers(np.prod(variable.shape, dtype=int)))
        self.bit = int(random.integers(8 * np.dtype(variable.dtype).itemsize))
        self.truth: dict[int, list[str]] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = min(batch + 1, STEPS)
        if step == self.step and self._comm.rank == self.rank:
            set_element(self._trainee.shared()[self.name], self.element, self._flip)
        if step >= self.step:
            self.truth[step] = differing(self._trainee, self._comm)

    def _flip(self, element: np.ndarray) -> None:
        element.view(np.uint8)[self.bit // 8] ^= np.uint8(1 << self.bit % 8)


def next_check(flip: Flip, per_execution: int) -> int:
    """Return the step of the first check from the flip on, by the rule the product documents."""
    check = per_execution
    while check < flip.step:
        check += -(-CHECK_EVERY // per_execution) * per_execution
    return min(check, STEPS)


def run_case(comm: Comm, trainee: Trainee, number: int) -> dict:
    """Return what became of one flip."""
    is_control = number % CONTROL_EVERY == CONTROL_EVERY - 1
    flip = Flip(comm, trainee, number)
    checks = [] if is_control else [SyncProof(comm, CHECK_EVERY)]
    caught = ""
    try:
        trainee.fit([Setup(comm), *([] if is_control else [Finite(comm)]), flip, *checks])
    except OutOfSyncError as error:
        caught = str(error)
    outcome, is_right = judge(flip, caught, next_check(flip, trainee.steps_per_execution), is_control=is_control)
    everybody = comm.gather_json(caught, name="caught")
    step, who = flip.step, flip.rank
    return {
        "case": number, "variable": flip.name, "element": flip.element, "bit": flip.bit, "step": step, "rank": who,
        "outcome": outcome, "ok": is_right and len(set(everybody)) == 1,
    }  # fmt: skip


def judge(flip: Flip, caught: str, check: int, *, is_control: bool) -> tuple[str, bool]:
    """Return (what happened, whether it may)."""
    last = flip.truth[max(flip.truth)]
    if is_control:
        return ("control: unnoticed", not caught) if last else ("control: healed", not caught)
    if caught.startswith("not finite"):
        found = int(re.findall(r"at step (\d+)", caught)[0])
        return "not finite", found <= check + 1 and f"on rank {flip.rank}" in caught
    if caught:
        named = re.findall(r"(\S+) differs", caught)
        at_check = f"at step {check}:" in caught or flip.name.endswith("iteration")
        names_it = flip.name in named or flip.name not in flip.truth[check] or "more" in caught
        return "caught", at_check and names_it and set(named) <= set(flip.truth[check])
    return "healed", not flip.truth[check]


def run(comm: Comm, numbers: list[int], add: Any) -> None:
    """Run cases on this rank."""
    trainees: dict[str, Trainee] = {}
    for number in numbers:
        kind = list(KINDS)[number % len(KINDS)]
        trainees[kind] = trainees.get(kind) or Trainee(comm, kind)
        add(run_case(comm, trainees[kind], number))


if __name__ == "__main__":
    in_ranks.main("tests.harness.bit_flips", num_cases=NUM_CASES, size=2, reduction="shared_memory", run=run)
