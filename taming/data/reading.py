"""Picture files -> PIL images and tensors: upright RGB; what can't be used is one line. Masks are
read in layouts.py.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.errors import UserError, first_line

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
Source = str | Path | BytesIO
"""A file, or what lies in an archive and says its name as text, see Member."""
LOOKED = 4  # pictures of a set, to tell whether they are masks
FEW = 64  # values that a mask has at most
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of what a broken EXIF block loses, only the orientation matters here
warnings.filterwarnings("ignore", "Corrupt EXIF|Truncated File", module="PIL")


class Member(BytesIO):
    """A file that lies in an archive or a table, with a name for messages."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


class CorruptImage(UserError):
    """A picture, or what belongs to it, that can't be used; a few in a data set are skipped.

    Args:
        message: in one line.
        rest: how many that follow it have the same fate, such as those of a missing shard.
        count: how many the message is about.
    """

    def __init__(self, message: str, rest: int = 0, count: int = 1):
        super().__init__(message)
        self.rest, self.count = rest, count


def read_image(path: Source) -> Image.Image:
    """A picture in RGB, upright.

    Palette, CMYK, greyscale, 16-bit and float files (0 to 1 or 0 to 255) are converted,
    transparency is laid on white.

    Raises:
        CorruptImage: the file is missing or no readable picture.
    """
    with opened(path, "picture") as file:
        file.load()
        image = _upright(file)
        if image.mode.startswith("I") or image.mode == "F":
            image = _as_8_bits(image, path)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return image.convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an upright picture, from its header. Raises CorruptImage."""
    with opened(path, "picture") as file:
        # Pillow decodes the whole of a PNG to look for EXIF that its header lacks
        turned = "exif" in file.info and _orientation(file) >= 5
        return (file.height, file.width) if turned else file.size


def mask_remark(paths: Sequence[Any]) -> str | None:
    """What to say where pictures, to judge by a few of them, are label maps: in one channel, a few
    values, in a palette or nearly black. They are read as the pictures that they are to the eye.
    """
    count = min(LOOKED, len(paths))
    few = [paths[i * len(paths) // count] for i in range(count)]
    if not few or not all(isinstance(path, Path) and _is_like_a_mask(path) for path in few):
        return None
    return (
        f"'{few[0]}' and others look like label maps, and are read as pictures; if they are masks,"
        " give the folder that holds images/ and segmentations/, or a mask tokenizer"
    )


def _is_like_a_mask(path: Path) -> bool:
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L") or file.format not in ("PNG", "BMP", "TIFF"):
                return False
            values = np.flatnonzero(np.bincount(np.asarray(file).ravel(), minlength=256)[:255])
            return 1 < len(values) < FEW and (file.mode == "P" or values.max() < FEW)
    except Exception:  # what can't be read is named where it is read
        return False


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL picture in RGB -> float32 (3, H, W) in [-1, 1]."""
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        kind = f"mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
        raise UserError(f"a PIL picture of mode RGB is expected, not {kind}; see read_image")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 127.5 - 1


@contextmanager
def opened(path: Source, kind: str) -> Iterator[Image.Image]:
    """An open file, its pixels not yet decoded; whatever Pillow raises becomes one line."""
    try:
        with Image.open(path) as file:
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        name = str(path)
        link = f" (a link to '{os.readlink(name)}')" if os.path.islink(name) else ""
        raise CorruptImage(f"{kind} '{path}'{link} does not exist") from None
    except Exception as error:  # Pillow raises many kinds
        raise CorruptImage(
            f"'{path}' is not a readable {kind} ({first_line(error) or type(error).__name__});"
            " remove or replace it"
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image.copy() if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block costs the orientation, not the picture
        return 1
    return value if isinstance(value, int) else 1


def _as_8_bits(image: Image.Image, path: Source) -> Image.Image:
    """Integers of 16 bits; floats from 0 to 1, or from 0 to 255, a little beyond allowed."""
    values = np.asarray(image).astype(np.float64)
    low, high = values.min(), values.max()
    top = 65535.0
    if image.mode == "F":
        top = 1.0 if high <= 1.1 else 255.0
    ambiguous = image.mode == "F" and 1.1 < high < 2.1
    if ambiguous or not (-0.1 * top <= low and high <= 1.1 * top):  # also where they are NaN
        raise CorruptImage(
            f"picture '{path}' holds values from {low:g} to {high:g}; 0 to 1 or 0 to 255 are"
            " expected of floats, 0 to 65535 of integers"
        )
    scaled = values.clip(0, top) * (255.0 / top)
    return Image.fromarray(scaled.round().astype(np.uint8))
