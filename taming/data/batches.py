"""Batches without end, each a function of (seed, batch number), so that an interrupted run resumes
with the very pictures that it would have had.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

from torch.utils.data import Sampler, default_collate

from taming.data.interface import PictureSet
from taming.data.permutation import Order, listed_order
from taming.data.reading import CorruptImage
from taming.errors import UserError

MOST_BROKEN = 0.01  # of the pictures; more stop the run
MOST_NAMED = 8  # in one message


class EndlessBatches(Sampler):
    """Lists of (index, view): every epoch a new order, random by (seed, epoch); view is the epoch's
    number, or cycles through `views` of them.

    Sample number n of the whole run is the same whatever the processes and the batch size are.

    Args:
        length: of the data set.
        batch_size: of one process.
        seed: of the order.
        start: the number of the sample to begin with, over all processes.
        rank, world: which of how many processes; each takes its slice of the batch that all have
            together.
        views: how many views there are; None: without end.
        order: (seed, epoch) -> the order of that epoch; default: see `listed_order`.
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
        order: Callable[[int, int], Order] | None = None,
    ):
        self.order = order or partial(listed_order, length)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.rank, self.world, self.views = start, rank, world, views

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, self.order(self.seed, 0)
        first = self.start + self.rank * self.batch_size
        while True:
            keys = []
            for number in range(first, first + self.batch_size):
                if number // self.length != epoch:
                    epoch = number // self.length
                    order = self.order(self.seed, epoch)
                view = epoch % self.views if self.views else epoch
                keys.append((order(number % self.length), view))
            yield keys
            first += self.world * self.batch_size


class SkippingBroken(PictureSet):
    """A data set in which the next usable picture stands in for one that can't be used; the item
    then has the messages about the broken ones under "skipped".
    """

    def __init__(self, dataset: PictureSet):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        index, view = key if isinstance(key, tuple) else (key, None)
        skipped, step = [], 0
        # So many in a row are enough to stop
        most = 2 + max(100, round(2 * MOST_BROKEN * len(self.dataset)))
        while step < len(self.dataset) and len(skipped) < most:
            try:
                item = self.dataset[((index + step) % len(self.dataset), view)]
                return {**item, "skipped": skipped}
            except CorruptImage as error:
                skipped.append(Skipped(str(error), error.count))
                step += 1 + error.rest
        raise UserError(f"none of {len(skipped)} pictures can be used; first: {skipped[0]}")


class Skipped(str):
    """A message about pictures that can't be used, and about how many it is."""

    pictures: int

    def __new__(cls, message: str, pictures: int = 1) -> "Skipped":
        self = super().__new__(cls, message)
        self.pictures = pictures
        return self

    def __reduce__(self) -> tuple:
        return Skipped, (str(self), self.pictures)


class BrokenPictures:
    """Names the unusable pictures of a set of `total`, each once, and stops when they are too
    many.
    """

    def __init__(self, total: int):
        self.total = total
        self.named: dict[str, int] = {}

    def note(self, skipped: list[str]) -> None:
        """Raises UserError with the list when more than 1 % can't be used."""
        for message in skipped:
            if message not in self.named:
                print(f"skipped: {message}", file=sys.stderr)
                self.named[message] = getattr(message, "pictures", 1)
        refuse_too_many(sorted(self.named), self.total, sum(self.named.values()))


def refuse_too_many(messages: list[str], total: int, count: int | None = None) -> None:
    """Raises UserError where messages are about more pictures than 1 % of `total`.

    Args:
        count: of the pictures that they are about; default: one each.
    """
    count = len(messages) if count is None else count
    if count > MOST_BROKEN * total:
        rest = len(messages) - MOST_NAMED
        more = f"; and {rest} more" if rest > 0 else ""
        raise UserError(
            f"{count} of {total} pictures can't be used, more than 1 %:"
            f" {'; '.join(messages[:MOST_NAMED])}{more}"
        )


def collate(items: list[dict]) -> dict:
    """Stacks tensors and numbers; names become a list, messages about skipped pictures one list."""
    stacked = [{k: v for k, v in item.items() if not isinstance(v, str | list)} for item in items]
    batch = default_collate(stacked)
    for key, value in items[0].items():
        if isinstance(value, str | list):
            batch[key] = [item[key] for item in items]
    batch["skipped"] = [message for messages in batch.get("skipped", []) for message in messages]
    return batch
