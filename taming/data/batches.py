"""Batches without end, each a function of (seed, batch number), so that an interrupted run goes on
with the very pictures it would have seen.
"""

import sys
from collections.abc import Iterator

import torch
from torch.utils.data import Dataset, Sampler, default_collate

from taming.data.transforms import CorruptImage
from taming.errors import UserError

MOST_BROKEN = 0.01  # of the pictures; more stop the run


class EndlessBatches(Sampler):
    """Lists of (index, view): every epoch a new order, drawn from (seed, epoch); view is the
    epoch's number, or cycles through `views` of them.

    Starts at micro-batch `start`. With several processes, each takes its slice of the batch that
    all see together.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        views: int | None = None,
    ):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.rank, self.world, self.views = start, rank, world, views

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        number = self.start
        while True:
            keys = []
            first = (number * self.world + self.rank) * self.batch_size
            for position in range(first, first + self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = torch.randperm(
                        self.length,
                        generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch),
                    ).tolist()
                keys.append(
                    (order[position % self.length], epoch % self.views if self.views else epoch)
                )
            yield keys
            number += 1


class SkippingBroken(Dataset):
    """A data set in which another picture stands in for one that can't be read; the item then names
    the broken one under "skipped".
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        skipped = []
        for step in range(len(self.dataset)):
            try:
                item = self.dataset[((index + step) % len(self.dataset), view)]
                return {**item, "skipped": skipped}
            except CorruptImage as error:
                skipped.append(str(error))
        raise UserError(
            f"none of the {len(self.dataset)} pictures can be read; first: {skipped[0]}"
        )


class BrokenPictures:
    """Names the unreadable pictures of a set of `total`, each once, and stops when they are too many."""

    def __init__(self, total: int):
        self.total = total
        self.named: set[str] = set()

    def note(self, skipped: list[str]) -> None:
        """Raises UserError with the list when more than 1 % can't be read."""
        for message in skipped:
            if message not in self.named:
                print(f"skipped: {message}", file=sys.stderr)
                self.named.add(message)
        if len(self.named) > MOST_BROKEN * self.total:
            raise UserError(
                f"{len(self.named)} of {self.total} pictures can't be read, more than 1 %:"
                f" {'; '.join(sorted(self.named))}"
            )


def collate(items: list[dict]) -> dict:
    """Stacks tensors and numbers; names become a list."""
    lists = {
        key: [item[key] for item in items]
        for key in items[0]
        if isinstance(items[0][key], str | list)
    }
    stacked = default_collate([{k: v for k, v in item.items() if k not in lists} for item in items])
    skipped = [s for found in lists.pop("skipped", []) for s in found]
    return {**stacked, **lists, "skipped": skipped}
