"""What happens around training: checkpoints and signals, the progress bar, pictures, and inputs
that can't be read.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from tqdm import tqdm

from taming import images
from taming.data.batches import SkippingBroken, collate
from taming.data.interface import PictureSet
from taming.errors import UserError, first_line
from taming.files import write_atomically
from taming.first_stage.interface import evaluating
from taming.training.datamodule import pictures_of, raise_once, stop_together
from taming.training.hooks import BatchCallback
from taming.training.module import NotFinite, Training
from taming.training.sharded import save_sharded

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")
STOPS = 1 << 16  # above all numbers of signals
# Windows lacks the last two
SIGNALS = [getattr(signal, name) for name in (*STOPPING, "SIGUSR1") if hasattr(signal, name)]


@contextmanager
def signals_restored() -> Iterator[None]:
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
            f"stopped by {signal.Signals(number).name}; the run is saved in '{checkpoint}'. Resume"
            f" with: taming train -r {checkpoint.parent.parent}"
        )
        self.code = 128 + number


class Checkpoints(BatchCallback):
    """last.ckpt every `checkpoint_every` batches, at the end, on signals and before an error stops
    the run; best.ckpt by validation; and validation itself.

    SIGUSR1 saves; SIGINT, SIGTERM and SIGHUP save and stop. A SIGHUP that was ignored when the run
    began (nohup) stays ignored.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.signals: list[int] = []  # to act upon at the end of the batch
        self.saved = 0  # the batch that last.ckpt holds; 0: there is none
        self.failed = 0  # the batch that last.ckpt could not be written at

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    def begin(self, trainer: pl.Trainer, module: Training) -> None:
        self.saved = module.batches if module.last_checkpoint else 0
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def after_batch(self, trainer: pl.Trainer, module: Training) -> None:
        count = len(self.signals)  # what arrives from now on waits for the next batch
        number = self._agreed(trainer, self.signals[:count])
        settings = module.experiment.trainer
        end = module.batches >= settings.max_steps
        if module.data_module.validation is not None and (
            module.batches % settings.validate_every == 0 or end
        ):
            figures = module.validate(module.data_module.val_dataloader())
            module.without_gain += 1
            if figures[module.monitor] < module.best:
                module.best, module.without_gain = figures[module.monitor], 0
                self.save(trainer, module, "best.ckpt")
            if module.without_gain == module.experiment.tuning.patience and not end:
                end = trainer.should_stop = True
                _say(f"stopped at batch {module.batches}: no gain since best.ckpt was written")
        if module.batches % settings.checkpoint_every == 0 or end or number:
            self.save(trainer, module, "last.ckpt")
        del self.signals[:count]
        if number and signal.Signals(number).name in STOPPING:
            raise_once(trainer, Interrupted(number, self.last))

    def after_error(self, trainer: pl.Trainer, module: Training, error: BaseException) -> None:
        """What is learned is saved, unless it is doubtful: no number, or one optimizer of two has
        stepped. In the middle of an accumulation, the codebook's counts hold part of a batch.
        """
        if isinstance(error, NotFinite | Interrupted) or module.stepping:
            return
        if not isinstance(error, Exception):
            return  # asked to leave at once
        if module.is_sharded:
            return  # others, who have parts of it, may be gone
        if trainer.is_global_zero and module.batches > max(self.saved, self.failed):
            try:
                self.write(module, self.last)
            except UserError as full:
                print(f"taming: {full}", file=sys.stderr)

    def save(self, trainer: pl.Trainer, module: Training, name: str) -> None:
        """Raises UserError, in the first process, where the disk is full."""
        if module.is_sharded:
            path = save_sharded(module.state(), self.folder, Path(name).stem, module.batches)
            if name == self.last.name:
                self.saved, module.last_checkpoint = module.batches, str(path)
        elif trainer.is_global_zero:
            self.write(module, self.folder / name)
        trainer.strategy.barrier()

    def write(self, module: Training, path: Path) -> None:
        if path == self.last:
            self.failed = module.batches  # until it is written
        write_atomically(path, lambda file: torch.save(module.state(), file))
        if path == self.last:
            self.saved, module.last_checkpoint = module.batches, str(path)

    def way_on(self) -> str:
        """What to do after an error, once its cause is mended."""
        if not self.saved:
            return "no checkpoint was saved yet: start the run again"
        return (
            f"the run is saved up to batch {self.saved}; resume with: taming train -r"
            f" {self.folder.parent}"
        )

    def _note(self, number: int, _frame) -> None:
        """The handler. A second Ctrl-C does not wait."""
        if number == signal.SIGINT and number in self.signals:
            _say("stopped at once; what came after the last checkpoint is lost")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number == signal.SIGINT:
            _say("saving after this batch; Ctrl-C again stops at once, without saving")
        self.signals.append(number)

    def _agreed(self, trainer: pl.Trainer, signals: list[int]) -> int:
        """The one of these that counts, 0 for none: the first that stops, else one that saves. A
        signal to one process is one to all, or they would wait for each other.
        """
        stopping = [number for number in signals if signal.Signals(number).name in STOPPING]
        number = stopping[0] + STOPS if stopping else max(signals, default=0)
        if trainer.world_size > 1:
            tensor = torch.tensor(number, device=trainer.strategy.root_device)
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
            number = int(tensor)
        return number % STOPS


def _say(line: str) -> None:
    """Safe in a signal handler, whose interrupted code may hold the lock of sys.stderr."""
    try:
        os.write(2, f"\ntaming: {line}\n".encode())
    except OSError:
        pass  # the terminal is gone


class Progress(BatchCallback):
    """One line: batches done, rate, time to go, main losses, share of codes in use. After six
    batches it prints what the run will cost.
    """

    bar: tqdm | None = None  # once training begins

    def begin(self, trainer: pl.Trainer, module: Training) -> None:
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

    def after_batch(self, trainer: pl.Trainer, module: Training) -> None:
        if self.bar is None:
            return
        done = module.batches - self.first
        if done == 1:
            self.clock = time.monotonic()  # the first batch also warms up
        try:
            if done == 6:
                self.bar.write(self._cost(module), file=sys.stderr)
            self.bar.set_postfix(_summary(module), refresh=False)
            self.bar.update(1)
        except OSError:
            self.bar.disable = True  # the terminal is gone, the run is not

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def after_error(self, trainer: pl.Trainer, module: Training, error: BaseException) -> None:
        self.end()

    def _cost(self, module: Training) -> str:
        seconds = (time.monotonic() - self.clock) / 5
        rest = module.experiment.trainer.max_steps - module.batches
        return (
            f"measured: {seconds:.2f} s per batch, about {duration(rest * seconds)} for the"
            f" remaining {rest}, peak memory {peak_memory():.1f} GB"
        )


def _summary(module: Training) -> dict[str, str]:
    """The first five terms, the share of codes in use, and the figure of validation."""
    terms = list(module.latest.items())
    terms = terms[:5] + [term for term in terms[5:] if term[0] == "used"]
    if module.validated:
        terms.append((f"val_{module.monitor}", module.validated[module.monitor]))
    return {name: f"{value:.3g}" for name, value in terms}


class Inputs(BatchCallback):
    """Names unreadable training pictures as they turn up; too many, or an item that is an error,
    stop the run in all processes.
    """

    def before_micro_batch(self, trainer: pl.Trainer, module: Training, batch: dict) -> None:
        stop_together(trainer, module.data_module.refusal(batch))


class Pictures(BatchCallback):
    """Every `pictures_every` batches, what the module draws of fixed validation pictures, as PNG
    montages on disk and to the loggers. A picture that can't be written does not stop the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def after_batch(self, trainer: pl.Trainer, module: Training) -> None:
        settings, validation = module.experiment.trainer, module.data_module.validation
        if not trainer.is_global_zero or validation is None:
            return
        ends = (1, settings.max_steps)
        if module.batches % settings.pictures_every == 0 or module.batches in ends:
            self.draw(trainer, module, pictures_of(validation))

    @torch.no_grad()
    def draw(self, trainer: pl.Trainer, module: Training, pictures: PictureSet) -> None:
        dataset = SkippingBroken(pictures)
        try:
            items = [dataset[index] for index in evenly_spaced(len(dataset), 6)]
            with evaluating(module):
                montage = module.draw(module.to_device(collate(items)))
            images.save(montage, self.folder / f"{module.batches:07d}.png")
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image("pictures", [images.to_pil(montage)], step=module.batches)
                elif hasattr(logger.experiment, "add_image"):
                    pixels = images.to_uint8(montage)
                    logger.experiment.add_image("pictures", pixels, module.batches)
        except (UserError, OSError) as error:
            module.warn_unwritable("a picture of the validation set", first_line(error))


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices of a data set, the same at every call."""
    count = min(count, length)
    return [number * length // count for number in range(count)]


def duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def peak_memory() -> float:
    """GB, of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
