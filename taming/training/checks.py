"""What is checked before a run starts: data sets, labels, condition and hardware fit the model."""

import hashlib
import os
from collections.abc import Iterable

import torch
from torch import Tensor

from taming.config.experiment import Experiment
from taming.data.batches import SkippingBroken, collate
from taming.data.captions import captions_of
from taming.data.codes import Codes
from taming.data.interface import PictureSet
from taming.data.shards import Shards
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.second_stage.interface import Condition
from taming.second_stage.model import SecondStage
from taming.training.codes import PartShape, condition_of
from taming.training.datamodule import pictures_of

SETS = ("train", "validation")


def check_sections(experiment: Experiment) -> None:
    """What no run can do without."""
    if not experiment.model:
        raise UserError(
            "model: missing; name one, for example {target: taming.first_stage.VQGAN, params:"
            " {...}}"
        )
    if not experiment.data.train:
        raise UserError(
            "data.train: missing; name a data set, for example {target: taming.data.ImageFolder,"
            " params: {root: my/pictures, size: 64}}"
        )
    for name in SETS:
        node = getattr(experiment.data, name)
        if node and "target" not in node:
            raise UserError(
                f"data.{name}.target: missing; name a data set, for example taming.data.ImageFolder"
            )


def check_sets(
    model: Autoencoder,
    sets: Iterable[PictureSet | None],
    grids: list[tuple[int, int]] | None = None,
) -> None:
    """The first picture of each data set fits the model: entry, size, labels.

    Args:
        grids: what the priors were built for, where there are priors.
    """
    for name, dataset in zip(SETS, sets):
        if dataset is None:
            continue
        item = SkippingBroken(dataset)[0]
        if model.key not in item:
            entries = [key for key in item if key not in ("name", "skipped")]
            raise UserError(
                f"the model reads '{model.key}', but data.{name} gives {', '.join(entries)}"
            )
        height, width = item[model.key].shape[-2:]
        try:
            actual = model.grids(height, width)
        except UserError as error:
            raise UserError(f"data.{name}: size: {error}") from None
        if grids is not None:
            _check_grids(grids, actual, f"data.{name} of {height}x{width}")
        check_labels(model.labels, dataset, name)


def _check_grids(grids: list[tuple[int, int]], actual: tuple, source: str) -> None:
    for level, (prior, data) in enumerate(zip(grids, actual)):
        if tuple(prior) != tuple(data):
            place = "prior" if len(grids) == 1 else f"priors[{level}]"
            raise UserError(
                f"model.params.{place}.params.grid: {list(prior)}, but {source} gives {list(data)}"
                " codes; make the size of the model and that of the data equal"
            )


def check_labels(labels: int | None, dataset: PictureSet, name: str) -> None:
    classes = getattr(dataset, "classes", None)
    if labels and classes and len(classes) > labels:
        raise UserError(
            f"model.params.labels: {labels}, but data.{name} has {len(classes)} classes; set it to"
            f" {len(classes)}"
        )


def check_condition(model: SecondStage, dataset: PictureSet) -> list[PartShape]:
    """The conditioner gives what the priors were built for. Returns vocabulary and grid of each
    part of the condition.
    """
    check_labels(model.conditioner.labels, dataset, "train")
    condition = first_condition(model, dataset)
    codes = tuple(torch.zeros(1, *prior.grid, dtype=torch.int64) for prior in model.levels)
    for level, prior in enumerate(model.levels):
        prior.decoder(model.with_coarser(condition, codes[:level]), prior.grid)
    return [(part.vocabulary, part.grid) for part in condition]


def first_condition(model: SecondStage, dataset: PictureSet) -> Condition:
    """Of the first item."""
    model.conditioner.prepare(lambda: captions_of(dataset))
    if not isinstance(dataset, Codes):
        return model.conditioner(single_batch(dataset))
    batch = collate([dataset[0]])
    shapes = [(v, (grid[0], grid[1]) if grid else None) for v, grid in dataset.about.parts]
    return condition_of(model, batch, shapes)


def single_batch(dataset: PictureSet) -> dict:
    """The first item as a batch of one, without names."""
    item = SkippingBroken(dataset)[0]
    captions = {"caption": [item["caption"]]} if "caption" in item else {}
    return captions | {
        key: value[None] if isinstance(value, Tensor) else torch.tensor([value])
        for key, value in item.items()
        if not isinstance(value, str | list)
    }


def contents(dataset: PictureSet | None) -> dict:
    """Which images a data set has, to see on resuming whether it is another: their number and a
    hash of their names. Folders may move, so paths don't count.
    """
    if dataset is None:
        return {}
    dataset, digest = pictures_of(dataset), hashlib.sha256()
    if isinstance(dataset, Codes | Shards):
        return dataset.contents()
    name = getattr(dataset, "name", None)  # data sets of other packages may have no names
    if name is not None:
        for index in range(len(dataset)):
            digest.update(f"{name(index)}\n".encode())
    return {"count": len(dataset), "names": digest.hexdigest()[:16]}


def check_hardware(experiment: Experiment) -> None:
    """Refuses what this machine has not, before a process or a thread of it exists."""
    trainer, processors = experiment.trainer, os.cpu_count() or 1
    if trainer.accelerator in ("gpu", "cuda"):
        devices = torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise UserError(
                "trainer.accelerator: torch sees no GPU here; leave out --gpus, or set"
                " trainer.accelerator=cpu"
            )
        if trainer.devices > devices:
            raise UserError(
                f"trainer.devices: {trainer.devices}, but this machine has {devices}"
                f" GPU{'s' if devices > 1 else ''}"
            )
    # A few more than there are cores is slow; many more bring the machine down
    for key, value, most in (
        ("trainer.devices", trainer.devices, max(8, processors)),
        ("trainer.threads", trainer.threads or 1, max(64, 4 * processors)),
        ("data.workers", experiment.data.workers, max(32, 4 * processors)),
    ):
        if value > most:
            raise UserError(
                f"{key}: {value} are too many for this machine with {processors}"
                f" processor{'s' if processors > 1 else ''}; take at most {most}"
            )
