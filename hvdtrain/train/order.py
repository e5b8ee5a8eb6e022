"""Which examples a replica sees at which step: a pure function of (seed, epoch, position).

One permutation of all data is cut into global batches, and each global batch is split by rank afterwards, so
the order of the samples does not depend on the number of ranks (Goyal et al. 2017, section 2.3). No TensorFlow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from hvdtrain.scaling import shard_bounds

NO_EXAMPLE = -1  # fills the row of a replica that has one example less than others


@dataclass(frozen=True)
class Order:
    """The data order of one replica.

    Args:
        num_examples: Size of the data set.
        examples_per_step: Examples all replicas together use in a step; with `divide`, those of each replica.
        steps_per_epoch: Steps every replica runs in one epoch; the last one takes what is left if that is less.
        seed: The run's seed.
        rank: This replica.
        size: All replicas.
        divide: Whether each replica sees the whole set in an order of its own (`epoch_splitting: divide`).
        chosen: Which examples of a larger set these are, rising; None: they are all there are.
    """

    num_examples: int
    examples_per_step: int
    steps_per_epoch: int
    seed: int
    rank: int
    size: int
    divide: bool = False
    chosen: np.ndarray | None = field(default=None, compare=False)

    def facts(self) -> dict[str, int]:
        """Return what decides the examples of each step of all replicas together, by words for people."""
        return {
            "examples": self.num_examples,
            "examples in a step": self.examples_per_step,
            "seed": self.seed,
        }

    @property
    def batch_size(self) -> int:
        """The examples of a replica in a step, at most."""
        return math.ceil(self.examples_per_step / self._sharers)

    @property
    def own_batch_size(self) -> int:
        """The examples of this replica in an ordinary step."""
        begin, end = self._part(self.examples_per_step)
        return end - begin

    @property
    def is_even(self) -> bool:
        """Whether every replica has as many examples as the others in every step."""
        return self.examples_per_step % self._sharers == 0 and self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether the last step of an epoch has as many examples as the others."""
        return self._in_last == self.examples_per_step

    @property
    def loss_weights(self) -> tuple[float, float]:
        """What to multiply this replica's mean loss with, in an ordinary step and in the last one of an epoch.

        The mean over replicas is then the mean over examples.
        """
        ordinary, last = (
            (end - begin) * self._sharers / examples
            for examples in (self.examples_per_step, self._in_last)
            for begin, end in [self._part(examples)]
        )
        return ordinary, last

    @property
    def end(self) -> int:
        """The number after that of the last example."""
        return self.num_examples if self.chosen is None else int(self.chosen[-1]) + 1

    def permutation(self, epoch: int) -> np.ndarray:
        """Return all example numbers in the order of one epoch, shape (num_examples,)."""
        stream = (self.seed, epoch, self.rank) if self.divide else (self.seed, epoch)
        order = np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))).permutation(self.num_examples)
        return order if self.chosen is None else self.chosen[order]

    def batches(self, epoch: int) -> np.ndarray:
        """Return this replica's example numbers in one epoch, shape (steps_per_epoch, batch_size).

        Rows with fewer examples end in `NO_EXAMPLE`.
        """
        numbers = self.permutation(epoch)
        whole = min(self.steps_per_epoch, self.num_examples // self.examples_per_step)
        split = whole * self.examples_per_step
        rows = np.full((self.steps_per_epoch, self.batch_size), NO_EXAMPLE, np.int64)
        begin, end = self._part(self.examples_per_step)
        rows[:whole, : end - begin] = numbers[:split].reshape(whole, self.examples_per_step)[:, begin:end]
        if whole < self.steps_per_epoch:
            begin, end = self._part(self._in_last)
            rows[whole, : end - begin] = numbers[split:][begin:end]
        return rows

    @property
    def _sharers(self) -> int:
        return 1 if self.divide else self.size

    @property
    def _in_last(self) -> int:
        before = (self.steps_per_epoch - 1) * self.examples_per_step
        return min(self.examples_per_step, self.num_examples - before)

    def _part(self, num_examples: int) -> tuple[int, int]:
        return shard_bounds(num_examples, rank=0 if self.divide else self.rank, size=self._sharers)


def hold_out(num_examples: int, num_validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the examples to train on, and of those held out; both rising.

    >>> trained, held_out = hold_out(10, 3, seed=0)
    >>> len(trained), len(held_out), sorted([*trained, *held_out]) == list(range(10))
    (7, 3, True)
    """
    stream = np.random.SeedSequence((seed, num_examples))
    order = np.random.Generator(np.random.Philox(stream)).permutation(num_examples)
    return np.sort(order[num_validation:]), np.sort(order[:num_validation])
