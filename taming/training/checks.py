"""What is checked before a run starts: data sets, labels, condition and hardware fit the model."""

import torch

from taming.config.experiment import Experiment
from taming.data.batches import SkippingBroken
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.second_stage.model import SecondStage


def check_sets(model: Autoencoder, sets: list, grids: list[tuple[int, int]] = ()) -> None:
    """The first picture of each data set fits the model: entry, size, labels, and the prior's grid."""
    for name, dataset in zip(("train", "validation"), sets):
        if dataset is None:
            continue
        item = SkippingBroken(dataset)[0]
        if model.key not in item:
            raise UserError(
                f"the model reads '{model.key}', but data.{name} gives"
                f" {', '.join(k for k in item if k not in ('name', 'skipped'))}"
            )
        height, width = item[model.key].shape[-2:]
        try:
            found = model.grids(height, width)
        except UserError as error:
            raise UserError(f"data.{name}.params.size: {error}") from None
        for i, (own, given) in enumerate(zip(grids, found)):
            if own != given:
                place = "prior" if len(grids) == 1 else f"priors[{i}]"
                raise UserError(
                    f"model.params.{place}.params.grid: {list(own)}, but data.{name} of"
                    f" {height}x{width} gives {list(given)} codes; make them equal"
                )
        check_labels(model, dataset, name)


def check_labels(model: Autoencoder, dataset, name: str) -> None:
    labels, classes = getattr(model, "labels", None), getattr(dataset, "classes", None)
    if labels and classes and len(classes) > labels:
        raise UserError(
            f"model.params.labels: {labels}, but data.{name} has {len(classes)} classes; set it to"
            f" {len(classes)}"
        )


def check_condition(model: SecondStage, dataset) -> None:
    """The conditioner gives what the prior was built to hear."""
    if hasattr(model.conditioner, "first_stage"):
        check_labels(model.conditioner.first_stage, dataset, "train")
    item = SkippingBroken(dataset)[0]
    batch = {
        k: v[None] if isinstance(v, torch.Tensor) else torch.tensor([v])
        for k, v in item.items()
        if not isinstance(v, str | list)
    }
    condition = model.conditioner(batch)
    codes = tuple(torch.zeros(1, *prior.grid, dtype=torch.int64) for prior in model.priors)
    for level, prior in enumerate(model.priors):
        prior.decoder(model.level_condition(condition, codes[:level]), prior.grid)


def check_hardware(experiment: Experiment) -> None:
    asked = experiment.trainer.accelerator
    if asked in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            "trainer.accelerator: a GPU is asked for, but torch sees none here; leave out --gpus,"
            " or set trainer.accelerator=cpu"
        )
    if asked in ("gpu", "cuda") and experiment.trainer.devices > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices: {experiment.trainer.devices} GPUs are asked for, but there are"
            f" {torch.cuda.device_count()}"
        )
