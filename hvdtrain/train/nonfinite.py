"""Values that are not finite, inside the training step: in which tensors, on which rank, and since which step.

A NaN or an infinity on one rank makes the mean over ranks not finite on all of them, so each rank finds the bad step
by itself, at the same step, and no message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
import tensorflow as tf

from hvdtrain.train import compat

NEVER = -1
SMALL_TYPES = (tf.float16, tf.bfloat16)  # their sums overflow


class Averaged(NamedTuple):
    """Tensors averaged over ranks.

    Args:
        means: One for each tensor.
        nonfinite: Of shape (2, tensors): whether each mean is not finite, and whether this rank's own tensor was not.
    """

    means: list[tf.Tensor]
    nonfinite: tf.Tensor


def joined(parts: Sequence[Averaged]) -> Averaged:
    """Return what was averaged in several collectives as one."""
    means = [mean for part in parts for mean in part.means]
    return Averaged(means, tf.concat([part.nonfinite for part in parts], axis=1))


def is_suspect(tensor: tf.Tensor) -> tf.Tensor:
    """Tell whether a tensor must be looked at: its sum is not finite. One pass, and never wrong where it says no."""
    total = tf.reduce_sum(tf.cast(tensor, tf.float32) if tensor.dtype in SMALL_TYPES else tensor)
    return tf.logical_not(tf.math.is_finite(total))


def look(own: Sequence[tf.Tensor], means: Sequence[tf.Tensor], suspicion: tf.Tensor) -> tf.Tensor:
    """Return `Averaged.nonfinite`: the exact look at every tensor if there is a suspicion, else all False."""
    return tf.cond(
        suspicion,
        lambda: tf.stack([tf.stack([_is_nonfinite(tensor) for tensor in row]) for row in (means, own)]),
        lambda: tf.zeros((2, len(own)), tf.bool),
    )


def looked_at(own: Sequence[tf.Tensor], means: Sequence[tf.Tensor]) -> Averaged:
    """Return the means with the result of looking at them."""
    if not means:
        return Averaged([], tf.zeros((2, 0), tf.bool))
    suspicion = tf.reduce_any(tf.stack([is_suspect(mean) for mean in means]))
    return Averaged(list(means), look(own, means, suspicion))


def _is_nonfinite(tensor: tf.Tensor) -> tf.Tensor:
    return tf.logical_not(tf.reduce_all(tf.math.is_finite(tensor)))


@dataclass(frozen=True)
class Found:
    """The first step whose averaged values were not finite.

    Args:
        step: Counted over the run, from 1.
        means: What was not finite after averaging.
        own: Which of this rank's were not finite before.
        state: Which of this rank's weights and slots already were not finite when the step began.
    """

    step: int
    means: list[str]
    own: list[str]
    state: list[str]


class Watch:
    """What the training step notes about values that are not finite, for Python to read between executions."""

    def __init__(self) -> None:
        self._first_step = tf.Variable(NEVER, dtype=tf.int64, trainable=False)
        self._num_steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._marks: dict[tuple[tuple[str, str], ...], tf.Variable] = {}

    def note(
        self, names: Sequence[str], nonfinite: tf.Tensor, *, step: tf.Tensor, state: Mapping[str, tf.Variable]
    ) -> tf.Tensor:
        """Return whether anything is not finite; if so, count the step and remember the first.

        Args:
            names: Of the tensors.
            nonfinite: `Averaged.nonfinite`.
            step: The step this is, from 1.
            state: Weights and slots by name, before the update. They are looked at only then.
        """
        marks = self._marks_of(tuple((kind, name) for kind in ("means", "own") for name in names), tuple(state))

        def remember() -> tf.Tensor:
            is_first = self._first_step < 0
            bad_state = [_is_nonfinite(tf.convert_to_tensor(variable)) for variable in state.values()]
            found = tf.stack([*tf.unstack(tf.reshape(nonfinite, [-1])), *bad_state])
            marks.assign(tf.where(is_first, found, marks))
            self._first_step.assign(tf.where(is_first, tf.cast(step, tf.int64), self._first_step))
            self._num_steps.assign_add(1)
            return tf.constant(True)

        return tf.cond(tf.reduce_any(nonfinite), remember, lambda: tf.constant(False))

    def _marks_of(self, tensors: tuple[tuple[str, str], ...], state: tuple[str, ...]) -> tf.Variable:
        keys = tensors + tuple(("state", name) for name in state)
        if keys not in self._marks:
            with tf.init_scope():  # a function is being traced, and a variable must outlive it
                self._marks[keys] = tf.Variable(tf.zeros(len(keys), tf.bool), trainable=False)
        return self._marks[keys]

    def found(self) -> Found | None:
        """Return the first bad step since `forget`, or None."""
        step = int(self._first_step.numpy())
        if step == NEVER:
            return None
        marked: dict[str, list[str]] = {"means": [], "own": [], "state": []}
        for keys, variable in self._marks.items():
            for (kind, name), is_marked in zip(keys, variable.numpy(), strict=True):
                marked[kind] += [name] if is_marked else []
        return Found(step, **marked)

    @property
    def num_steps(self) -> int:
        """How many steps were bad since `forget`."""
        return int(self._num_steps.numpy())

    def forget(self) -> None:
        """Begin anew."""
        self._first_step.assign(NEVER)
        self._num_steps.assign(0)
        for marks in self._marks.values():
            marks.assign(tf.zeros_like(marks))


class Shadows:
    """Copies of what a forward pass changes by itself, so that a step can be undone.

    Args:
        variables: Moving statistics, and the totals of the loss.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self.variables = list(variables)
        self._originals = [compat.raw(variable) for variable in variables]
        self._copies = [tf.Variable(original, trainable=False) for original in self._originals]

    def take(self) -> None:
        """Remember the present values. Works inside and outside the training step."""
        for original, copy in zip(self._originals, self._copies, strict=True):
            copy.assign(original)

    def put_back(self) -> None:
        """Return to the values last taken."""
        for original, copy in zip(self._originals, self._copies, strict=True):
            original.assign(copy)
