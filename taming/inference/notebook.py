"""What a notebook needs beside the models: pictures and masks in, pictures out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from taming import images
from taming.data import reading
from taming.data.layouts import read_layout
from taming.data.legend import Legend
from taming.errors import UserError
from taming.images import colour_labels, contact_sheet, to_pil
from taming.inference.models import labels_of


def read_image(path: str | Path) -> Tensor:
    """A picture as a batch of one, (1, 3, H, W) in [-1, 1]: upright, RGB.

    Raises:
        UserError: the file is missing or no picture.
    """
    return reading.to_tensor(reading.read_image(path))[None]


def read_mask(
    path: str | Path,
    legend: nn.Module | Legend | Sequence[str] | int | None = None,
    convention: str | None = None,
) -> Tensor:
    """Labels as a batch of one, int64 (1, H, W), in any shape that `taming sample --masks` reads;
    what was read is printed.

    Args:
        path: a file of labels or colours.
        legend: a model, whose labels and colours are meant; names, or how many labels there are.
        convention: ade20k, coco-stuff, cityscapes.

    Raises:
        UserError: no readable mask, labels or colours that the legend does not have.
    """
    known = labels_of(legend) if isinstance(legend, nn.Module) else legend
    layout = read_layout(path, known, convention).filled()
    print(layout.describe(str(path)))
    return layout.labels()[None]


def show(*pictures: Tensor | Image.Image, columns: int = 4, labels: int | None = None) -> Any:
    """Pictures side by side, as one PIL picture: the last line of a notebook's cell draws it.

    Args:
        pictures: images (B, 3, H, W) or (3, H, W) in [-1, 1], label maps int64 (B, H, W), PIL.
        columns: of the sheet.
        labels: how many there are in the label maps.
    """
    if not pictures:
        raise UserError("show: no pictures are given")
    parts = [_batch(picture, labels) for picture in pictures]
    height, width = (max(part.shape[side] for part in parts) for side in (-2, -1))
    cells = [
        nn.functional.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2]), value=1.0)
        for part in parts
    ]
    joined = torch.cat(cells)
    return to_pil(contact_sheet(joined, columns=min(columns, len(joined))))


def save(picture: Tensor | Image.Image, path: str | Path) -> Path:
    """Writes a PNG, complete or not at all; several pictures become one sheet. Returns the path."""
    if isinstance(picture, Tensor) and picture.ndim == 4:
        picture = to_pil(picture[0]) if len(picture) == 1 else show(picture)
    elif isinstance(picture, Tensor) and not picture.is_floating_point():
        picture = show(picture)
    images.save(picture, path)
    return Path(path)


def _batch(picture: Tensor | Image.Image, labels: int | None) -> Tensor:
    """(B, 3, H, W) in [-1, 1] on the CPU."""
    if isinstance(picture, Image.Image):
        return reading.to_tensor(picture.convert("RGB"))[None]
    tensor = torch.as_tensor(np.asarray(picture)) if not isinstance(picture, Tensor) else picture
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        masks = tensor if tensor.ndim == 3 else tensor[None]
        return colour_labels(masks.long(), labels or max(10, int(masks.max()) + 1))
    batch = tensor if tensor.ndim == 4 else tensor[None]
    return batch.float().expand(-1, 3, -1, -1)
