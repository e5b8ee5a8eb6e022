"""Which examples a replica sees at which step: a pure function of (seed, epoch, position).

One permutation of all data is cut into global batches, and each global batch is split by rank afterwards, so
the order of the samples does not depend on the number of ranks (Goyal et al. 2017, section 2.3). No TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Order:
    """The data order of one replica.

    Args:
        num_examples: Size of the data set.
        batch_size: Examples one replica uses per step.
        steps_per_epoch: Steps every replica runs in one epoch.
        seed: The run's seed.
        rank: This replica.
        size: All replicas.
        divide: Whether each replica sees the whole set in an order of its own (`epoch_splitting: divide`).
    """

    num_examples: int
    batch_size: int
    steps_per_epoch: int
    seed: int
    rank: int
    size: int
    divide: bool = False

    def permutation(self, epoch: int) -> np.ndarray:
        """Return all example numbers in the order of one epoch, shape (num_examples,)."""
        stream = (self.seed, epoch, self.rank) if self.divide else (self.seed, epoch)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))).permutation(self.num_examples)

    def batches(self, epoch: int) -> np.ndarray:
        """Return this replica's example numbers in one epoch, shape (steps_per_epoch, batch_size)."""
        sharers = 1 if self.divide else self.size
        used = self.steps_per_epoch * sharers * self.batch_size
        cut = self.permutation(epoch)[:used].reshape(self.steps_per_epoch, sharers, self.batch_size)
        return np.ascontiguousarray(cut[:, 0 if self.divide else self.rank])
