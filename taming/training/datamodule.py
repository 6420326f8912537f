"""The data sets as Lightning wants them: endless training batches, validation once through."""

import signal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from taming.data.batches import BrokenPictures, EndlessBatches, SkippingBroken, collate


class DataModule(pl.LightningDataModule):
    """Serves `train` without end and `validation` once through, in order."""

    def __init__(
        self,
        train: Dataset,
        validation: Dataset | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        views: int | None = None,
    ):
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size, self.seed, self.workers, self.views = batch_size, seed, workers, views
        self.start = 0  # the micro-batch to begin with; set on resume
        self.broken = BrokenPictures(len(train) + (0 if validation is None else len(validation)))

    def train_dataloader(self) -> DataLoader:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        batches = EndlessBatches(
            len(self.train), self.batch_size, self.seed, self.start, rank, world, self.views
        )
        return self._loader(SkippingBroken(self.train), batch_sampler=batches)

    def val_dataloader(self) -> DataLoader | list:
        return (
            self._loader(SkippingBroken(self.validation), batch_size=self.batch_size)
            if self.validation is not None
            else []
        )

    def _loader(self, dataset: Dataset, **how) -> DataLoader:
        # A generator of its own: making an iterator otherwise draws from the global random state.
        return DataLoader(
            dataset,
            collate_fn=collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.workers > 0,
            worker_init_fn=_ignore_interrupt,
            **how,
        )


def _ignore_interrupt(_: int) -> None:
    """Ctrl-C goes to every process of a terminal; the main one saves, and needs its workers until
    then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
