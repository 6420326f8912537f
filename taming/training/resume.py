"""Resuming: what a run was is kept; what is asked for and can't be done is refused, what changes is
said.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from taming.config.experiment import Experiment, load
from taming.errors import UserError
from taming.formats.content import content_of
from taming.formats.ours import read_raw
from taming.formats.sharded import is_sharded, read_sharded
from taming.training.checks import SETS
from taming.training.datamodule import DataModule
from taming.training.module import Training, images_per_batch
from taming.training.strategies import rank


@dataclass
class Run:
    """What a checkpoint says of the run that wrote it."""

    path: Path
    state: dict
    experiment: Experiment

    @property
    def batches(self) -> int:
        return self.state["taming"]["batches"]

    @property
    def images(self) -> int:
        """Seen so far; earlier versions did not count them."""
        counted = self.state["taming"].get("images")
        return self.batches * images_per_batch(self.experiment) if counted is None else counted

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the model, as they were trained, not averaged."""
        return {
            name.removeprefix("model."): tensor
            for name, tensor in self.state["state_dict"].items()
            if name.startswith("model.")
        }


def read_run(path: Path, allow: list[str]) -> Run:
    """Raises UserError for a checkpoint that is damaged or not of taming train."""
    if not path.is_file() and not is_sharded(path):
        raise UserError(f"'{path}' does not exist, so there is nothing to resume")
    try:
        state = read_sharded(path) if is_sharded(path) else read_raw(path)
    except UserError as error:
        best = path.with_name("best.ckpt")
        if path == best or not best.is_file():
            raise
        raise UserError(f"{error}; resume from it with: taming train -r {best}") from None
    if "taming" not in state:
        raise UserError(
            f"'{path}' was not written by taming train; to start from its weights, use -b CONFIG"
            f" --from {path}"
        )
    metadata = state["taming"]
    experiment = content_of(metadata, {}, {}, path, allow).experiment()
    if not {"best", "averaged"} <= metadata.keys() or not {"state_dict", "optimizers"} <= (
        state.keys()
    ):
        raise UserError(
            f"'{path}' holds a model, but not the state of its training; to start from its"
            f" weights, use -b CONFIG --from {path}"
        )
    return Run(path, state, experiment)


def take_over(experiment: Experiment, run: Run, folder: Path) -> None:
    """What stays as the run has it: the model, and the batch at which its discriminator starts."""
    settings = experiment.trainer
    if run.batches >= settings.max_steps:
        raise UserError(
            f"run '{folder}' has finished its {run.batches} batches; for more, add for example"
            f" trainer.max_steps={2 * run.batches}"
        )
    models = [{}, run.experiment.model]
    if (folder / "config.yaml").is_file():
        models.append(load([], resumed=folder / "config.yaml").model)
    # The first process checks for all: what it then writes may reach the others before they look
    if not rank() and experiment.model not in models:
        raise UserError(
            f"model: run '{folder}' has another one, and a run keeps its model; leave the section"
            f" out, or start a new run from these weights with --from {folder}"
        )
    # A second stage carries its first one; the file that it came from may have changed since
    experiment.model = run.experiment.model
    _keep_start(experiment, run)


def _keep_start(experiment: Experiment, run: Run) -> None:
    """A share of a run that is now longer would be a later batch, and switch a running
    discriminator off.
    """
    start, before = _start(experiment), _start(run.experiment)
    if before is None or not isinstance(start, float) or not 0 < start < 1:
        return
    if isinstance(before, float) and 0 < before < 1:  # written by an earlier version
        before = round(before * run.experiment.trainer.max_steps)
    _loss_params(experiment)["adversarial_start"] = before
    if before != round(start * experiment.trainer.max_steps):
        print(
            f"loss.params.adversarial_start: stays batch {before} as the run has it; give a number"
            " of batches to change it",
            file=sys.stderr,
        )


def _start(experiment: Experiment) -> int | float | None:
    return _loss_params(experiment).get("adversarial_start")


def _loss_params(experiment: Experiment) -> dict:
    return (experiment.loss or {}).get("params") or {}


def compare_data(experiment: Experiment, run: Run, module: Training) -> None:
    """Refuses data sets whose split would move; says which others have changed."""
    for name in SETS:
        before = run.state["taming"].get("data", {}).get(name)  # earlier versions kept none
        now = module.data[name]
        if before is None or before == now:
            continue
        change = f"data.{name}: {_count(before)} in the run so far, {_count(now)} now"
        if before.get("count") == now.get("count"):
            change = f"data.{name}: {_count(now)} as in the run so far, but with other names"
        node = getattr(experiment.data, name)
        same_node = node == getattr(run.experiment.data, name)
        if same_node and (node.get("params") or {}).get("split"):
            raise UserError(
                f"{change}, so its split would move and validation would see what was trained on;"
                f" restore the files, or start a new run from these weights with --from {run.path}"
            )
        print(f"{change}; training continues with them", file=sys.stderr)


def _count(facts: dict) -> str:
    count = facts.get("count", 0)
    return f"{count} picture{'' if count == 1 else 's'}"


def place_data(experiment: Experiment, run: Run, module: Training, data: DataModule) -> None:
    """The data continue where the run stopped, whatever the size of a batch is now."""
    trainer = experiment.trainer
    data.start = module.images = run.images
    before, now = images_per_batch(run.experiment), images_per_batch(experiment)
    if before != now:
        print(
            f"a batch is {now} pictures from here on, and was {before}; training continues with the"
            f" picture that comes next, and trainer.max_steps is still {trainer.max_steps}",
            file=sys.stderr,
        )
