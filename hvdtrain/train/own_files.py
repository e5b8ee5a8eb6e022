"""Files dealt out to ranks once, each rank opening its own only: for data too many, or too far away, for every rank.

The price: a rank's examples come from its own files in every epoch, so the order depends on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hvdtrain.errors import UserCodeError
from hvdtrain.train.order import NO_EXAMPLE, Order


def deal_files(sizes: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Return the numbers of each rank's files, so that the ranks' bytes are about equal.

    The largest file that is left goes to the rank that has least.

    Raises:
        UserCodeError: If there are fewer files than ranks.

    >>> deal_files([5, 1, 1, 3], 2)
    [[0], [1, 2, 3]]
    """
    if len(sizes) < num_ranks:
        raise UserCodeError(
            f"own_files: {len(sizes)} files for {num_ranks} ranks, and each rank needs one at least; write the data to "
            "more files, start fewer ranks, or leave own_files out"
        )
    mine: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        rank = min(range(num_ranks), key=lambda rank: (loads[rank], len(mine[rank]), rank))
        mine[rank].append(number)
        loads[rank] += sizes[number]
    return [sorted(numbers) for numbers in mine]


@dataclass(frozen=True)
class OwnOrder(Order):
    """The order of one rank's own examples: a function of seed, epoch, position and rank.

    Every rank makes as many steps. In an epoch a rank with many examples leaves some out, one with few uses some twice;
    other ones each time.

    Args:
        counts: Examples of each rank.
    """

    counts: tuple[int, ...] = ()

    def facts(self) -> dict[str, int]:
        """Return what decides the examples of each step; here the number of ranks does too."""
        return {**super().facts(), "ranks": self.size}

    def batches(self, epoch: int) -> np.ndarray:
        """Return numbers among this rank's own examples, shape (steps_per_epoch, batch_size)."""
        rows = super().batches(epoch)
        is_used = rows != NO_EXAMPLE
        rows[is_used] = self._own(epoch, int(is_used.sum()))
        return rows

    def _own(self, epoch: int, num_wanted: int) -> np.ndarray:
        """Return so many of this rank's examples, all of them before any is used again."""
        count = self.counts[self.rank]
        rounds = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, epoch, self.rank, again))))
            for again in range(-(-num_wanted // count))
        ]
        return np.concatenate([random.permutation(count) for random in rounds])[:num_wanted]

    @property
    def balance_text(self) -> str:
        """How evenly files are dealt out, in words."""
        used = self.examples_per_step * self.steps_per_epoch / self.size
        text = f"own files: ranks have {min(self.counts):,} to {max(self.counts):,} examples"
        text += f" and use {used:,.0f} in each epoch"
        if (twice := used - min(self.counts)) >= 1:
            text += f"; up to {twice:,.0f} are used twice"
        if (left := max(self.counts) - used) >= 1:
            text += f"; up to {left:,.0f} are left out, other ones each time"
        return text
