"""What happens around training: checkpoints and signals, the progress bar, pictures, the cost of a
run, and the loggers.
"""

import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from taming import images
from taming.data.batches import SkippingBroken
from taming.errors import UserError
from taming.training.module import Training

# Windows lacks the last
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


@contextmanager
def signals_restored():
    """Whatever handlers are installed inside are gone afterwards; Lightning leaves one that
    swallows SIGTERM.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupted(UserError):
    """A signal stopped the run after its state was saved; `code` is what the process exits with."""

    def __init__(self, number: int, checkpoint: Path):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; the run is saved in '{checkpoint}'. Go on"
            f" with: taming train -r {checkpoint.parent.parent}"
        )
        self.code = 128 + number


class Checkpoints(pl.Callback):
    """last.ckpt every `checkpoint_every` batches, at the end and on signals; best.ckpt by
    validation; and validation itself.

    A file is written beside its place and renamed, so that a kill leaves the old one or the new
    one. SIGUSR1 saves; SIGINT and SIGTERM save and stop.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: int | None = None  # the signal that came

    def on_train_start(self, trainer, module: Training) -> None:
        for number in SIGNALS:
            signal.signal(number, self._note)

    def on_train_batch_end(self, trainer, module: Training, *_) -> None:
        if module.micro:
            return  # only where an accumulation ends
        self._agree(trainer)
        settings = module.experiment.trainer
        end = module.batches >= settings.max_steps
        if trainer.datamodule.validation is not None and (
            module.batches % settings.validate_every == 0 or end
        ):
            figures = module.validate(trainer.datamodule.val_dataloader())
            if figures[module.monitor] < module.best:
                module.best = figures[module.monitor]
                self.save(trainer, module, "best.ckpt")
        if module.batches % settings.checkpoint_every == 0 or end or self.asked:
            self.save(trainer, module, "last.ckpt")
        asked, self.asked = self.asked, None
        if asked in (signal.SIGINT, signal.SIGTERM):
            raise Interrupted(asked, self.folder / "last.ckpt")

    def save(self, trainer, module: Training, name: str) -> None:
        path = self.folder / name
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{name}.tmp")
            torch.save(module.state(), temporary)
            os.replace(temporary, path)
        if name == "last.ckpt":
            module.last_checkpoint = str(path)
        trainer.strategy.barrier()

    def _note(self, number: int, _frame) -> None:
        if self.asked == number == signal.SIGINT:  # a second Ctrl-C does not wait
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.asked not in (signal.SIGINT, signal.SIGTERM):
            self.asked = number

    def _agree(self, trainer) -> None:
        """A signal to one process is one to all, or they would wait for each other."""
        if trainer.world_size > 1:
            asked = torch.tensor(self.asked or 0, device=trainer.strategy.root_device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)
            self.asked = int(asked) or None


class Progress(pl.Callback):
    """One line: batches done, rate, time left, main losses, share of codes in use. After five
    batches it says what the run will cost.
    """

    def on_train_start(self, trainer, module: Training) -> None:
        from tqdm import tqdm

        self.first = module.batches
        self.bar = tqdm(
            total=module.experiment.trainer.max_steps,
            initial=module.batches,
            unit="batch",
            dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
            disable=not trainer.is_global_zero,
        )
        self.clock = time.monotonic()

    def on_train_batch_end(self, trainer, module: Training, *_) -> None:
        if module.micro:
            return
        done = module.batches - self.first
        if done == 1:
            self.clock = time.monotonic()  # the first batch also warms up
        if done == 6:
            seconds = (time.monotonic() - self.clock) / 5
            left = module.experiment.trainer.max_steps - module.batches
            self.bar.write(
                f"measured: {seconds:.2f} s per batch, about {duration(left * seconds)} for the"
                f" {left} batches left, peak memory {peak_memory():.1f} GB",
                file=sys.stderr,
            )
        terms = list(module.latest.items())
        shown = {k: f"{v:.3g}" for k, v in terms[:5] + [t for t in terms[5:] if t[0] == "used"]}
        if module.validated:
            shown[f"val_{module.monitor}"] = f"{module.validated[module.monitor]:.3g}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(1)

    def on_train_end(self, trainer, module) -> None:
        self.bar.close()

    def on_exception(self, trainer, module, error) -> None:
        if hasattr(self, "bar"):
            self.bar.close()


class Skipped(pl.Callback):
    """Names unreadable training pictures as they turn up; too many stop the run."""

    def on_train_batch_start(self, trainer, module, batch: dict, _: int) -> None:
        trainer.datamodule.broken.note(batch.get("skipped", []))


class Pictures(pl.Callback):
    """Every `pictures_every` batches, what the module draws of fixed validation pictures, as PNG
    grids on disk and to the loggers.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_end(self, trainer, module: Training, *_) -> None:
        settings = module.experiment.trainer
        if module.micro or not trainer.is_global_zero or trainer.datamodule.validation is None:
            return
        if module.batches % settings.pictures_every == 0 or module.batches in (
            1,
            settings.max_steps,
        ):
            self.draw(trainer, module)

    def draw(self, trainer, module: Training) -> None:
        from torch.utils.data import default_collate

        dataset = getattr(trainer.datamodule.validation, "source", trainer.datamodule.validation)
        chosen = [SkippingBroken(dataset)[i] for i in spread(len(dataset), 6)]
        batch = default_collate(
            [
                {k: v for k, v in item.items() if not isinstance(v, str | list | tuple)}
                for item in chosen
            ]
        )
        modes = [(m, m.training) for m in module.modules()]
        module.eval()
        with torch.no_grad():
            picture = module.draw(module.to_device(batch))
        for part, mode in modes:
            part.training = mode
        images.save(picture, self.folder / f"{module.batches:07d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("pictures", [images.to_pil(picture)], step=module.batches)
            elif hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("pictures", images.to_uint8(picture), module.batches)


def spread(length: int, count: int) -> list[int]:
    """`count` indices spread evenly over a data set, the same at every call."""
    return [i * length // min(count, length) for i in range(min(count, length))]


def duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def peak_memory() -> float:
    """GB, of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource

        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
            / 1e9
        )
    except ImportError:  # Windows
        return float("nan")
