"""Lightning's callbacks in our terms: of a `Training`, and by batches instead of micro-batches."""

from typing import Any

import pytorch_lightning as pl

from taming.training.module import Training


class BatchCallback(pl.Callback):
    """Subclasses fill in what they need of `begin`, `before_micro_batch`, `after_batch`, `end` and
    `after_error`.
    """

    def begin(self, trainer: pl.Trainer, module: Training) -> None:
        """Before the first batch of this process."""

    def before_micro_batch(self, trainer: pl.Trainer, module: Training, batch: dict) -> None:
        """Of those that make up a batch, with what was read for it."""

    def after_batch(self, trainer: pl.Trainer, module: Training) -> None:
        """Where an accumulation ends and `module.batches` has grown."""

    def end(self) -> None:
        """After the last batch."""

    def after_error(self, trainer: pl.Trainer, module: Training, error: BaseException) -> None:
        """Before the error leaves the loop."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin(trainer, _training(pl_module))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.before_micro_batch(trainer, _training(pl_module), batch)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        module = _training(pl_module)
        if module.micro == 0:
            self.after_batch(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.after_error(trainer, _training(pl_module), exception)


def _training(module: pl.LightningModule) -> Training:
    assert isinstance(module, Training)
    return module
