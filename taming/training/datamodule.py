"""The data sets as Lightning wants them: endless training batches, validation once through."""

import signal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from taming.data.batches import BrokenPictures, EndlessBatches, SkippingBroken, collate
from taming.data.interface import PictureSet
from taming.errors import UserError


class DataModule(pl.LightningDataModule):
    """Serves `train` without end and `validation` once through, in order.

    A user's error in an item (a label out of range, a picture smaller than the crop) becomes
    {"error": message} in place of the batch, so that the loop can save before it stops.

    Args:
        train, validation: data sets whose items are dictionaries.
        views: how many fixed views of each image the batches cycle through; None counts on.
    """

    def __init__(
        self,
        train: PictureSet,
        validation: PictureSet | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        views: int | None = None,
    ):
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size, self.seed, self.workers, self.views = batch_size, seed, workers, views
        self.start = 0  # the sample to begin with, over all processes; set on resume
        self.broken = BrokenPictures(len(train) + (0 if validation is None else len(validation)))

    def train_dataloader(self) -> DataLoader:
        rank, world = 0, 1
        if self.trainer:
            rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = EndlessBatches(
            len(self.train),
            self.batch_size,
            self.seed,
            self.start,
            rank,
            world,
            self.views,
            getattr(self.train, "order", None),
        )
        return self._loader(self.train, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader | list:
        if self.validation is None:
            return []
        return self._loader(self.validation, batch_size=self.batch_size)

    def refusal(self, batch: dict) -> str:
        """Why training can't go on with this batch; empty where it can. Names broken images."""
        if "error" in batch:
            return batch["error"]
        try:
            self.broken.note(batch.get("skipped", []))
        except UserError as error:
            return str(error)
        return ""

    def _loader(self, dataset: PictureSet, **options) -> DataLoader:
        # A generator of its own: an iterator otherwise draws from the global random state
        return DataLoader(
            ErrorItems(SkippingBroken(dataset)),
            collate_fn=collate_or_error,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.workers > 0,
            worker_init_fn=_ignore_interrupt,
            pin_memory=torch.cuda.is_available(),  # copied to the GPU while it computes
            **options,
        )


def pictures_of(dataset: PictureSet) -> PictureSet:
    """The pictures behind cached codes; else the data set itself."""
    return getattr(dataset, "source", dataset)


class ErrorItems(PictureSet):
    """A user's error in an item of `dataset` is an item too: {"error": message}."""

    def __init__(self, dataset: PictureSet):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        try:
            return self.dataset[key]
        except UserError as error:
            return {"error": str(error)}


def collate_or_error(items: list[dict]) -> dict:
    for item in items:
        if "error" in item:
            return item
    return collate(items)


def stop_together(trainer: pl.Trainer, message: str) -> None:
    """Raises UserError in every process where one of them has a message; all have to call this.
    Only the first process speaks: the others leave in silence.
    """
    if trainer.world_size == 1:
        if message:
            raise UserError(message)
        return
    flag = torch.tensor(bool(message), device=trainer.strategy.root_device, dtype=torch.int32)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    if not flag:
        return
    messages: list[str] = [""] * trainer.world_size
    dist.all_gather_object(messages, message)
    raise_once(trainer, UserError(next(filter(None, messages))))


def raise_once(trainer: pl.Trainer, error: UserError) -> None:
    """The first process raises; the others exit with 0, or Lightning would kill the first."""
    if trainer.is_global_zero:
        raise error
    raise SystemExit(0)


def _ignore_interrupt(_: int) -> None:
    """Ctrl-C goes to every process of a terminal, a hang-up too; the main one saves, and needs its
    workers until then.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
