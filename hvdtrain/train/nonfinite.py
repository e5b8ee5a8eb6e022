"""Values that are not finite, inside the training step: in which tensors, on which rank, and since which step.

A NaN or an infinity on one rank makes the mean over ranks not finite on all of them, so each rank finds the bad step
by itself, at the same step, and no message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from hvdtrain.train import compat

NEVER = -1
SMALL_TYPES = (tf.float16, tf.bfloat16)  # their sums overflow
SMALL_ELEMENTS = 2**12  # up to here an operation costs more than what it works on


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
        lambda: tf.stack([are_nonfinite(means), are_nonfinite(own)]),
        lambda: tf.zeros((2, len(own)), tf.bool),
    )


def looked_at(own: Sequence[tf.Tensor], means: Sequence[tf.Tensor]) -> Averaged:
    """Return the means with the result of looking at them."""
    if not means:
        return Averaged([], tf.zeros((2, 0), tf.bool))
    suspicion = tf.reduce_any(tf.stack([is_suspect(group) for _, group in stacked(means)]))
    return Averaged(list(means), look(own, means, suspicion))


def is_finite(array: np.ndarray) -> bool:
    """Tell whether an array holds neither NaN nor infinity.

    A finite sum proves it at a fraction of the cost; a sum that overflowed calls for the exact look.
    """
    if array.dtype.kind not in "fc" and not keras.backend.is_float_dtype(array.dtype.name):  # bfloat16 is of kind V
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def are_nonfinite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return for each tensor whether it holds NaN or infinity."""
    if not tensors:
        return tf.zeros(0, tf.bool)
    groups = stacked(tensors)
    marks = [tf.logical_not(tf.reduce_all(tf.math.is_finite(rows), axis=1)) for _, rows in groups]
    order = [place for places, _ in groups for place in places]
    return tf.gather(tf.concat(marks, 0), np.argsort(order))


def stacked(tensors: Sequence[tf.Tensor]) -> list[tuple[list[int], tf.Tensor]]:
    """Return matrices whose rows are the tensors at the given places: small ones of one shape share a matrix.

    A model of 10,000 small variables then needs few operations, and large ones are not copied.
    """
    alike: dict[Any, list[int]] = {}
    for place, tensor in enumerate(tensors):
        is_small = tensor.shape.is_fully_defined() and tensor.shape.num_elements() <= SMALL_ELEMENTS
        alike.setdefault((tensor.dtype, *tensor.shape) if is_small else place, []).append(place)
    return [
        (places, tf.reshape(tf.stack([tensors[place] for place in places]), [len(places), -1]))
        if len(places) > 1
        else (places, tf.reshape(tensors[places[0]], [1, -1]))
        for places in alike.values()
    ]


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
    """What the training step notes about values that are not finite, for Python to read between executions.

    Args:
        in_graph: Look at weights and slots by operations of the step, and not from Python. The caller need not make
            the update wait for `note` then, but the step gets an input and an operation for each of them.
    """

    def __init__(self, *, in_graph: bool = False) -> None:
        self._in_graph = in_graph
        self._is_told = True  # whether Python hears of a bad step from the step itself, and need not ask
        self._has_heard = False
        self._first_step = tf.Variable(NEVER, dtype=tf.int64, trainable=False)
        self._num_steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._marks: dict[tuple[tuple[str, str], ...], tf.Variable] = {}
        # A variable that is made while a function is traced has TensorFlow trace it all once more. One mark stands
        # for all of them until the first bad step.
        self._spare: tf.Variable | None = tf.Variable(
            tf.zeros(1, tf.bool), shape=tf.TensorShape([None]), trainable=False
        )

    def note(
        self, names: Sequence[str], nonfinite: tf.Tensor, *, step: tf.Tensor, state: Mapping[str, tf.Variable]
    ) -> tf.Tensor:
        """Return whether anything is not finite; if so, count the step and remember the first.

        The update must wait for the result, or weights could be looked at too late.

        Args:
            names: Of the tensors.
            nonfinite: `Averaged.nonfinite`.
            step: The step this is, from 1.
            state: Weights and slots by name, before the update. They are looked at only then.
        """
        marks = self._marks_of(tuple((kind, name) for kind in ("means", "own") for name in names), tuple(state))

        def remember() -> tf.Tensor:
            is_first = self._first_step < 0
            found = tf.concat([tf.reshape(nonfinite, [-1]), self._look_at([*state.values()], is_first)], 0)
            marks.assign(tf.where(is_first, found, marks))
            self._first_step.assign(tf.where(is_first, tf.cast(step, tf.int64), self._first_step))
            self._num_steps.assign_add(1)
            return tf.constant(True)

        return tf.cond(tf.reduce_any(nonfinite), remember, lambda: tf.constant(False))

    def _look_at(self, variables: list[tf.Variable], is_first: tf.Tensor) -> tf.Tensor:
        """Return for each variable whether it is not finite, or all False after the first bad step."""
        if self._in_graph or compat.is_for_xla():  # which knows no Python
            self._is_told = False
            return are_nonfinite([tf.convert_to_tensor(variable) for variable in variables])

        def look_now(is_first: np.ndarray) -> np.ndarray:
            self._has_heard = True
            return np.array([bool(is_first) and not is_finite(compat.to_array(one)) for one in variables], bool)

        # A branch that takes very many variables as inputs costs more to trace than the rest of the step.
        return tf.ensure_shape(tf.numpy_function(look_now, [is_first], tf.bool), [len(variables)])

    def _marks_of(self, tensors: tuple[tuple[str, str], ...], state: tuple[str, ...]) -> tf.Variable:
        keys = tensors + tuple(("state", name) for name in state)
        if keys not in self._marks and self._spare is not None and not compat.is_for_xla():  # where shapes are fixed
            self._marks[keys], self._spare = self._spare, None
        if keys not in self._marks:
            with tf.init_scope():  # a function is being traced, and a variable must outlive it
                self._marks[keys] = tf.Variable(tf.zeros(len(keys), tf.bool), trainable=False)
        return self._marks[keys]

    def found(self) -> Found | None:
        """Return the first bad step since `forget`, or None."""
        if self._is_told and not self._has_heard:
            return None  # asking TensorFlow takes 0.2 ms after an execution, with cold caches
        step = int(self._first_step.numpy())
        if step == NEVER:
            return None
        marked: dict[str, list[str]] = {"means": [], "own": [], "state": []}
        for keys, variable in self._marks.items():
            for (kind, name), is_marked in zip(keys, variable.numpy(), strict=False):
                marked[kind] += [name] if is_marked else []
        return Found(step, **marked)

    @property
    def num_steps(self) -> int:
        """How many steps were bad since `forget`."""
        return int(self._num_steps.numpy())

    def forget(self) -> None:
        """Begin anew."""
        self._has_heard = False
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
