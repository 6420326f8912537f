"""Reading pictures and masks, and the fixed or random views (resize, crop, flip) that training
sees; a view is a function of (seed, index, view) alone.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from taming.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


class CorruptImage(UserError):
    """A file that is not a readable picture."""


def read_image(path: str | Path) -> Image.Image:
    """A picture in RGB, upright. Palette, CMYK, greyscale and 16-bit files are converted,
    transparency is laid on white. Raises CorruptImage.
    """
    try:
        with Image.open(path) as file:
            file.load()
            upright = ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise UserError(f"picture '{path}' does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImage(
            f"'{path}' is not a readable picture ({_reason(error)}); remove or replace it"
        ) from None
    if upright.mode.startswith("I") or upright.mode == "F":
        values = np.asarray(upright).astype(np.float64)
        top = 65535.0 if upright.mode.startswith("I") else 255.0
        upright = Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8))
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")


def read_mask(path: str | Path, labels: int | None = None) -> Image.Image:
    """A label map: an 8-bit (mode L) or palette PNG, whose values are labels, never colours. Raises
    UserError for colours and for labels beyond the class list.
    """
    try:
        with Image.open(path) as file:
            file.load()
            mask = file.copy()
    except FileNotFoundError:
        raise UserError(f"mask '{path}' does not exist") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImage(
            f"'{path}' is not a readable mask ({_reason(error)}); remove or replace it"
        ) from None
    if mask.mode not in ("L", "P", "1"):
        raise UserError(
            f"mask '{path}' has mode {mask.mode}; a mask is one channel of 8-bit labels (PNG of"
            " mode L or P)"
        )
    mask = Image.fromarray(np.asarray(mask).astype(np.uint8))
    if labels is not None:
        highest = mask.getextrema()[1]
        if highest >= labels:
            raise UserError(
                f"mask '{path}' holds label {highest}, but the class list ends at {labels - 1}; add"
                " the class, or mend the mask"
            )
    return mask


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def to_tensor(image: Image.Image) -> Tensor:
    """RGB -> float32 (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 127.5 - 1


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """Labels -> int64 (H, W)."""
    return torch.from_numpy(np.array(mask)).long()


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """64 -> (64, 64); [64, 96] -> (64, 96): height, width."""
    pair = (size, size) if isinstance(size, int) else tuple(int(s) for s in size)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"size {size} should be one positive number, or [height, width]")
    return pair


@dataclass(frozen=True)
class View:
    """The picture's short side is resized to `scale` in [1, largest] times what just covers `size`,
    then a crop of `size` (height, width) is taken.

    Random views draw scale, place and flip from (seed, index, view); view None is the fixed one:
    scale 1, centre, not flipped.
    """

    size: tuple[int, int]
    largest: float = 1.5
    flip: bool = True
    upscale: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.largest < 1:
            raise UserError(
                f"scale {self.largest} should be at least 1: how much larger than the crop the"
                " resized picture may be"
            )

    def box(
        self, width: int, height: int, index: int, view: int | None, name: str
    ) -> tuple[tuple[float, float, float, float], bool]:
        """The part of a picture of this size that is seen (left, top, right, bottom), and whether
        it is flipped.
        """
        rows, columns = self.size
        if (width < columns or height < rows) and not self.upscale:
            raise UserError(
                f"'{name}' is {width}x{height}, smaller than the crop {columns}x{rows} (width x"
                " height); take a smaller size, or set upscale: true"
            )
        draw = random.Random(f"{self.seed}/{index}/{view}")
        zoom = 1.0 if view is None else draw.uniform(1.0, self.largest)
        cover = min(width / columns, height / rows)  # source pixels per output pixel at scale 1
        source = max(cover / zoom, min(1.0, cover))  # never enlarge the source, unless it must be
        # Min: rounding may exceed by one last digit
        w, h = min(columns * source, width), min(rows * source, height)
        x, y = (0.5, 0.5) if view is None else (draw.random(), draw.random())
        left, top = (width - w) * x, (height - h) * y
        flipped = self.flip and view is not None and draw.random() < 0.5
        return (left, top, left + w, top + h), flipped

    def image(self, image: Image.Image, box: tuple, flipped: bool) -> Image.Image:
        return self._cut(image, box, flipped, Image.Resampling.BICUBIC)

    def mask(self, mask: Image.Image, box: tuple, flipped: bool) -> Image.Image:
        """Nearest-neighbour: labels are names, not amounts."""
        return self._cut(mask, box, flipped, Image.Resampling.NEAREST)

    def _cut(self, picture: Image.Image, box: tuple, flipped: bool, resample) -> Image.Image:
        cut = picture.resize((self.size[1], self.size[0]), resample, box=box)
        return ImageOps.mirror(cut) if flipped else cut
