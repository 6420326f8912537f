"""Where metrics and pictures go: the CSV file, TensorBoard, W&B."""

import csv
import os
import sys
from pathlib import Path

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from taming.errors import UserError
from taming.evaluation.metrics import read_metrics


class CSVLog(Logger):
    """metrics.csv with the columns batch, name, value: appended as they come. On resume, rows past
    the checkpoint are dropped.
    """

    def __init__(self, path: Path, keep_to: int | None = None):
        super().__init__()
        self.path = path
        self._begin(keep_to)

    @rank_zero_only
    def _begin(self, keep_to: int | None) -> None:
        path = self.path
        rows = read_metrics(path) if keep_to is not None and path.is_file() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["batch", "name", "value"])
            writer.writerows([b, n, repr(v)] for b, n, v in rows if b <= keep_to)
        os.replace(temporary, path)

    name = "csv"
    version = ""
    experiment = None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(
                [step, name, repr(float(value))] for name, value in metrics.items()
            )

    @rank_zero_only
    def log_hyperparams(self, *_, **__) -> None:
        """The configuration is in config.yaml beside the file."""


def make_loggers(experiment, folder: Path, keep_to: int | None) -> list[Logger]:
    """The CSV file always; TensorBoard and W&B where the configuration asks. W&B offline needs no
    account.
    """
    loggers: list[Logger] = [CSVLog(folder / "metrics.csv", keep_to)]
    if experiment.logger.tensorboard:
        from pytorch_lightning.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    if experiment.logger.wandb not in ("off", "offline", "online"):
        raise UserError(
            f"logger.wandb: '{experiment.logger.wandb}' is none of off, offline, online"
        )
    if experiment.logger.wandb != "off":
        loggers.append(_wandb(experiment, folder))
    return loggers


def _wandb(experiment, folder: Path) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    offline = experiment.logger.wandb == "offline"
    netrc = Path.home() / ".netrc"
    known = os.environ.get("WANDB_API_KEY") or (
        netrc.is_file() and "api.wandb.ai" in netrc.read_text()
    )
    if not offline and not known:
        print(
            "logger.wandb: no W&B account is set up on this machine (`wandb login`); logging"
            " offline",
            file=sys.stderr,
        )
        offline = True
    return WandbLogger(
        project=experiment.logger.project, name=folder.name, save_dir=str(folder), offline=offline
    )
