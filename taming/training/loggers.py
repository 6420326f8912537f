"""Where metrics and pictures go: the CSV file, TensorBoard, W&B."""

import csv
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from taming.config.experiment import Experiment
from taming.errors import UserError
from taming.evaluation.metrics import COLUMNS, read_metrics
from taming.files import write_atomically


class CSVLog(Logger):
    """metrics.csv with the columns batch, name, value: appended as they come. Rows that can't be
    written wait in memory for the next attempt.

    Args:
        path: the file; rows that it has already are dropped,
        resumed: but for those up to this batch.
    """

    experiment = None

    def __init__(self, path: Path, resumed: int | None = None):
        super().__init__()
        self.path = path
        self.waiting: list[tuple[int, str, str]] = []
        self._begin(resumed)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def _begin(self, resumed: int | None) -> None:
        rows = []
        if resumed is not None and self.path.is_file():
            rows = [row for row in read_metrics(self.path) if row[0] <= resumed]

        def write(file: Path) -> None:
            with file.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(COLUMNS)
                writer.writerows((batch, name, repr(value)) for batch, name, value in rows)

        write_atomically(self.path, write)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Raises OSError where the disk is full; the file then ends with a complete row."""
        self.waiting += [(step or 0, name, repr(float(value))) for name, value in metrics.items()]
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self.waiting)
        except OSError:
            os.truncate(self.path, size)
            raise
        self.waiting = []

    @rank_zero_only
    def log_hyperparams(self, *_, **__) -> None:
        """The configuration is in config.yaml beside the file."""


def make_loggers(experiment: Experiment, folder: Path, resumed: int | None) -> list[Logger]:
    """The CSV file always; TensorBoard and W&B where the configuration asks. W&B offline needs no
    account.

    Args:
        resumed: the batch that the run is resumed at; None for a new one.
    """
    loggers: list[Logger] = [CSVLog(folder / "metrics.csv", resumed)]
    if experiment.logger.tensorboard:
        from pytorch_lightning.loggers import TensorBoardLogger

        # What was logged past the checkpoint is logged again
        purge = None if resumed is None else resumed + 1
        board = TensorBoardLogger(folder, name="", version="tensorboard", purge_step=purge)
        loggers.append(board)
    if experiment.logger.wandb not in ("off", "offline", "online"):
        raise UserError(
            f"logger.wandb: '{experiment.logger.wandb}' is none of off, offline, online"
        )
    if experiment.logger.wandb != "off":
        loggers.append(_wandb(experiment, folder, resumed))
    return loggers


def _wandb(experiment: Experiment, folder: Path, resumed: int | None) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    offline = experiment.logger.wandb == "offline"
    if not offline and not _has_account():
        print(
            "logger.wandb: no W&B account is set up on this machine (`wandb login`); logging"
            " offline",
            file=sys.stderr,
        )
        offline = True
    return WandbLogger(
        project=experiment.logger.project,
        name=folder.name,
        save_dir=str(folder),
        offline=offline,
        id=_wandb_id(folder / "wandb" / "id.txt", resumed),
        resume=None if offline else "allow",
    )


def _has_account() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(encoding="utf-8")
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: there is no home
        return False


def _wandb_id(path: Path, resumed: int | None) -> str:
    """One for each run folder, so that W&B continues the run after a resume."""
    if resumed is not None and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    identity = secrets.token_hex(4)
    write_atomically(path, lambda file: file.write_text(identity, encoding="utf-8"))
    return identity
