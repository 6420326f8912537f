"""What stays of a picture when the rest is drawn: sides, mask files, labels of the layout, or all
of it where the canvas is extended.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.data.legend import Legend
from taming.data.reading import read_image, to_tensor
from taming.errors import UserError, did_you_mean

SIDES = ("top", "bottom", "left", "right")
FORMS = "a mask file, top, bottom, left, right (a half, or right:0.3), label:NAME, not:..."
EXTEND = "extend:"  # before what --extend says, in a record
MOST = 16384  # pixels of one side

Margins = tuple[int, int, int, int]
"""Pixels that are added: left, right, top, bottom."""


@dataclass(frozen=True)
class KnownPart:
    """A picture (1, 3, H, W) and what stays of it.

    Args:
        image: on the canvas that is drawn.
        stays: bool (1, H, W); None where the layout decides.
        label: what stays, of the layout.
        inverse: whether that is what is drawn anew instead.
        margins: by which the canvas is larger than the picture.
    """

    image: Tensor
    stays: Tensor | None
    label: int | None = None
    inverse: bool = False
    margins: Margins = (0, 0, 0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def tensors(self, batch: dict, count: int) -> tuple[Tensor, Tensor]:
        """The image (count, 3, H, W) and a bool mask (count, H, W) for the pictures of a batch."""
        stays = self.stays
        if stays is None:
            masks = batch["segmentation"]
            stays = (masks == self.label) ^ self.inverse
        device = stays.device
        return (
            self.image.to(device).expand(count, *self.image.shape[1:]),
            stays.expand(count, *stays.shape[1:]),
        )

    def extended(self, mask: Image.Image) -> Image.Image:
        """A layout of the picture, continued over the margins."""
        left, right, top, bottom = self.margins
        if mask.size != (self.size[1] - left - right, self.size[0] - top - bottom):
            return mask
        pads = ((top, bottom), (left, right))
        return Image.fromarray(np.pad(np.asarray(mask), pads, mode="edge"))


def read_known(names: tuple[str, str], legend: Legend | None = None) -> KnownPart:
    """A picture and what stays of it.

    Args:
        names: the picture's path, and a word: see FORMS, or extend:right:64,top:32.
        legend: of the layouts, where the prior reads some.

    Raises:
        UserError: no such file, form, side or label; a mask of another size than the picture.
    """
    picture, word = map(str, names)
    image = to_tensor(read_image(Path(picture)))[None]
    if word.startswith(EXTEND):
        return _extended(image, margins_of(word.removeprefix(EXTEND)))
    inverse = word.startswith("not:")
    form = word.removeprefix("not:")
    if form.startswith("label:"):
        return KnownPart(image, None, _label(form.removeprefix("label:"), legend), inverse)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    side, _, text = form.partition(":")
    if side in SIDES:
        stays = _side(side, _share(text or "0.5", word), size)
    else:
        stays = _file(form, size, picture)
    return KnownPart(image, stays ^ inverse)


def _side(side: str, share: float, size: tuple[int, int]) -> Tensor:
    stays = torch.zeros(1, *size, dtype=torch.bool)
    along = size[0] if side in ("top", "bottom") else size[1]
    count = round(share * along)
    part = slice(0, count) if side in ("top", "left") else slice(along - count, along)
    if side in ("top", "bottom"):
        stays[:, part] = True
    else:
        stays[:, :, part] = True
    return stays


def _share(text: str, word: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise UserError(f"--known-mask {word}: '{text}' is not a share such as 0.5")
    return share


def _file(name: str, size: tuple[int, int], picture: str) -> Tensor:
    """Where a mask file is not black."""
    if not Path(name).is_file():
        raise UserError(f"--known-mask '{name}' is no file; give {FORMS}")
    stays = torch.from_numpy(np.array(read_image(Path(name)).convert("L")))[None] > 0
    if tuple(stays.shape[1:]) != size:
        raise UserError(
            f"--known-mask '{name}' is {stays.shape[2]}x{stays.shape[1]}, but --known"
            f" '{picture}' is {size[1]}x{size[0]}; make them equal"
        )
    return stays


def _label(name: str, legend: Legend | None) -> int:
    if legend is None:
        raise UserError(
            f"--known-mask label:{name}: this prior reads no layouts; give a mask or a side"
        )
    if name not in legend.names:
        raise UserError(f"--known-mask label:{name} is unknown{did_you_mean(name, legend.names)}")
    return legend.names.index(name)


def margins_of(text: str) -> Margins:
    """right:64,top:32 -> pixels that are added. Raises UserError."""
    margins = dict.fromkeys(SIDES, 0)
    for part in text.split(","):
        side, _, number = part.strip().partition(":")
        if side not in SIDES or not number.isdecimal() or not 0 < int(number) <= MOST:
            raise UserError(
                f"--extend {text}: give sides with pixels, for example right:64 or left:32,right:32"
            )
        margins[side] += int(number)
    return margins["left"], margins["right"], margins["top"], margins["bottom"]


def _extended(image: Tensor, margins: Margins) -> KnownPart:
    """On a canvas that is larger by the margins; the edges are continued there."""
    canvas = torch.nn.functional.pad(image, margins, mode="replicate")
    inside = torch.ones(1, *image.shape[-2:], dtype=torch.bool)
    return KnownPart(canvas, torch.nn.functional.pad(inside, margins), margins=margins)
