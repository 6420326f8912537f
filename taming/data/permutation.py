"""Random orders that are functions: the place of a sample in an epoch -> its number, from a seed
alone, without a list of all. So any number of processes agree on one order, and resume in it.
"""

from collections.abc import Callable, Sequence
from math import isqrt

import numpy as np
import torch

Order = Callable[[int], int]
"""Place in an epoch -> index in the data set."""

ROUNDS = 6
_MASK = (1 << 64) - 1


class Permutation:
    """A random permutation of 0 to length - 1 as a Feistel network over pairs (a, b) of
    rows x columns >= length; what falls outside is mapped again until it falls inside (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains", their generalized Feistel cipher).

    One step takes microseconds and no memory, at any length.

    Args:
        length: how many numbers are permuted, at least 1.
        key: whole numbers, such as seed and epoch; each key gives its own order.
    """

    def __init__(self, length: int, *key: int):
        self.length = length
        self.rows = isqrt(max(length - 1, 0)) + 1
        self.columns = -(-length // self.rows)
        self.keys = [mixed(*key, number) for number in range(ROUNDS)]

    def __call__(self, position: int) -> int:
        """Where the number at `position` (0 to length - 1) goes."""
        rows, columns = self.rows, self.columns
        value = position
        while True:
            a, b = value // columns, value % columns
            for number in range(0, ROUNDS, 2):
                a = (a + _scrambled(b ^ self.keys[number])) % rows
                b = (b + _scrambled(a ^ self.keys[number + 1])) % columns
            value = a * columns + b
            if value < self.length:
                return value


class ShardOrder:
    """Shards in a random order, cut into windows of so many shards; within a window the samples in
    random order. A disk or a store then reads from few shards at a time.

    Args:
        counts: samples of each shard.
        seed, epoch: of the order.
        window: shards that are mixed; None: all samples are.
    """

    def __init__(
        self, counts: Sequence[int] | np.ndarray, seed: int, epoch: int, window: int | None
    ):
        counts = np.asarray(counts, np.int64)
        self.key = (seed, epoch)
        window = min(window or len(counts), len(counts))
        shards = np.arange(len(counts))
        if window < len(counts):
            permutation = Permutation(len(counts), *self.key, -1)
            shards = np.array([permutation(place) for place in range(len(counts))])
        # Where each shard's samples begin in the data set, and where they end in the epoch
        self.starts = (np.cumsum(counts) - counts)[shards]
        self.ends = np.cumsum(counts[shards])
        self.window_ends = self.ends[[*range(window - 1, len(counts) - 1, window), -1]]
        self.window, self.permutation = -1, Permutation(1)

    def __call__(self, position: int) -> int:
        window = int(self.window_ends.searchsorted(position, side="right"))
        start = int(self.window_ends[window - 1]) if window else 0
        if window != self.window:
            length = int(self.window_ends[window]) - start
            self.window, self.permutation = window, Permutation(length, *self.key, window)
        place = start + self.permutation(position - start)
        shard = int(self.ends.searchsorted(place, side="right"))
        return int(self.starts[shard]) + place - (int(self.ends[shard - 1]) if shard else 0)


def listed_order(length: int, seed: int, epoch: int) -> Order:
    """A random order of a data set that is small enough to be listed."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(length, generator=generator).tolist().__getitem__


def mixed(*numbers: int) -> int:
    """One number of 64 bits from several."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = _scrambled(value ^ (number & _MASK))
    return value


def _scrambled(value: int) -> int:
    """A bijection of 64 bits in which each bit of the input moves half of the output (the finalizer
    of splitmix64, Steele et al. 2014, after Stafford's variant 13).
    """
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
