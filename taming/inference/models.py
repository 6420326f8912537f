"""The models that the verbs run, and what a first stage reads of a file."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taming.data.card import Card
from taming.data.layouts import read_layout
from taming.data.legend import Legend
from taming.data.reading import mask_remark, read_image, to_tensor
from taming.errors import UserError
from taming.first_stage.interface import Autoencoder
from taming.formats.building import build_model
from taming.formats.load import load, read_checkpoint
from taming.second_stage.model import SecondStage

NUMBERS = 3 << 20  # of a batch, about: 16 pictures of 256 x 256


def second_stage_of(
    checkpoint: str | Path, config: str | Path | None = None, allow: Sequence[str] = ()
) -> SecondStage:
    """Raises UserError for any other checkpoint."""
    model = load(checkpoint, config, stage="second", allow=allow)
    assert isinstance(model, SecondStage)
    return model


def first_stage_of(
    checkpoint: str | Path, config: str | Path | None = None, allow: Sequence[str] = ()
) -> Autoencoder:
    """That of a second stage, or the checkpoint itself."""
    model = load(checkpoint, config, allow=allow)
    model = model.first_stage if isinstance(model, SecondStage) else model
    if not isinstance(model, Autoencoder):
        raise UserError(
            f"'{checkpoint}' is a {type(model).__name__}; give the run of a first or a second stage"
        )
    return model


def number_of_labels(model: nn.Module) -> int | None:
    """Of the masks that a model reads or makes."""
    if isinstance(model, SecondStage):
        return model.conditioner.labels or model.first_stage.labels
    labels = getattr(model, "labels", None)  # autoencoders and segmenters
    return labels if isinstance(labels, int) else None


def labels_of(model: nn.Module) -> Legend | None:
    """Names and colours of these labels, as far as the checkpoint says them."""
    card = getattr(model, "card", None)
    card = card if isinstance(card, Card) else Card()
    return card.legend(number_of_labels(model))


def legend_for(checkpoint: str | Path, allow: Sequence[str] = ()) -> Legend | None:
    """The same of a checkpoint, whose weights are not looked at."""
    content = read_checkpoint(checkpoint, allow=allow)
    return content.card.legend(number_of_labels(build_model(content)))


def batches_of(
    model: Autoencoder, pictures: Sequence[tuple[str, Path]]
) -> Iterator[tuple[list[str], Tensor]]:
    """Neighbours of one size together: their names, and (B, ...) as the model reads them."""
    remark_on_masks(model, [path for _, path in pictures])
    names: list[str] = []
    inputs: list[Tensor] = []
    for name, path in pictures:
        picture = read_input(model, path)
        same = not inputs or picture.shape == inputs[0].shape
        if not same or len(inputs) * picture.numel() >= NUMBERS:
            yield names, torch.cat(inputs)
            names, inputs = [], []
        names.append(name)
        inputs.append(picture)
    if inputs:
        yield names, torch.cat(inputs)


def remark_on_masks(model: Autoencoder, paths: Sequence[Any]) -> None:
    """Says on stderr that a model of pictures is about to read what looks like label maps."""
    if model.key == "image" and (remark := mask_remark(paths)):
        print(remark, file=sys.stderr)


def read_input(model: Autoencoder, path: Path) -> Tensor:
    """A batch of one: a picture in [-1, 1], for a mask tokenizer a label map."""
    if model.key == "segmentation":
        return read_layout(path, labels_of(model)).labels()[None]
    return to_tensor(read_image(path))[None]
