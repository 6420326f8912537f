"""Picture and mask files -> PIL images and tensors: upright RGB, or labels; what can't be used is
one line.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming.errors import UserError, first_line
from taming.images import palette

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
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
_LOSSY = ("JPEG", "MPO", "JPEG2000")
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow stretches 2 and 4 bits to 0..255


class CorruptImage(UserError):
    """A picture, or what belongs to it, that can't be used; a few in a data set are skipped."""


def read_image(path: str | Path) -> Image.Image:
    """A picture in RGB, upright.

    Palette, CMYK, greyscale, 16-bit and float files (0 to 1 or 0 to 255) are converted,
    transparency is laid on white.

    Raises:
        CorruptImage: the file is missing or no readable picture.
    """
    with _opened(path, "picture") as file:
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
    with _opened(path, "picture") as file:
        # Pillow decodes the whole of a PNG to look for EXIF that its header lacks
        turned = "exif" in file.info and _orientation(file) >= 5
        return (file.height, file.width) if turned else file.size


def read_mask(path: str | Path, labels: int | None = None) -> Image.Image:
    """A label map: an 8-bit (mode L) or palette PNG, whose values are labels, never colours.

    Args:
        path: the file.
        labels: the length of the class list.

    Raises:
        CorruptImage: colours, transparency, 16 bits, lossy compression, labels beyond the class
            list, a palette of the class colours in another order, no readable picture.
    """
    with _opened(path, "mask") as file:
        step = _check_mask(file, path, labels)
        file.load()
        values = np.asarray(file).astype(np.uint8) // step
    mask = Image.fromarray(values)
    highest = int(values.max())
    if labels is not None and highest >= labels:
        raise CorruptImage(
            f"mask '{path}' holds label {highest}, but the class list ends at {labels - 1}; add"
            " the class, or mend the mask"
        )
    return mask


@dataclass(frozen=True)
class MaskHeader:
    """What the header of a mask says.

    Args:
        size: (width, height).
        foreign_palette: its colours are neither grey nor those of its labels, so that a person who
            looks at it may take the colours, not the indices, for what counts.
    """

    size: tuple[int, int]
    foreign_palette: bool


def mask_header(path: str | Path, labels: int | None = None) -> MaskHeader:
    """Without reading pixels. Raises CorruptImage for a file that can't be a mask."""
    with _opened(path, "mask") as file:
        _check_mask(file, path, labels)
        colours, expected = _palette_of(file), _class_colours(labels)
        grey = all(colour == (i, i, i) for i, colour in enumerate(colours))
        as_expected = colours[: len(expected)] == expected[: len(colours)]
        return MaskHeader(file.size, not grey and not as_expected)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL picture in RGB -> float32 (3, H, W) in [-1, 1]."""
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        kind = f"mode {image.mode}" if isinstance(image, Image.Image) else type(image).__name__
        raise UserError(f"a PIL picture of mode RGB is expected, not {kind}; see read_image")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 127.5 - 1


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """Labels, a PIL picture of mode L or P -> int64 (H, W)."""
    if not isinstance(mask, Image.Image) or mask.mode not in ("L", "P", "1"):
        kind = f"mode {mask.mode}" if isinstance(mask, Image.Image) else type(mask).__name__
        raise UserError(f"a PIL mask of mode L or P is expected, not {kind}; see read_mask")
    return torch.from_numpy(np.array(mask)).long()


@contextmanager
def _opened(path: str | Path, kind: str) -> Iterator[Image.Image]:
    """An open file, its pixels not yet decoded; whatever Pillow raises becomes one line."""
    try:
        with Image.open(path) as file:
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        link = f" (a link to '{os.readlink(path)}')" if os.path.islink(path) else ""
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


def _as_8_bits(image: Image.Image, path: str | Path) -> Image.Image:
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


def _check_mask(file: Image.Image, path: str | Path, labels: int | None) -> int:
    """What Pillow multiplied the labels by. Raises CorruptImage where the file can't be a mask."""
    if file.format in _LOSSY:
        raise CorruptImage(
            f"mask '{path}' is a {file.format}, whose compression changes labels; save masks as PNG"
        )
    if file.mode not in ("L", "P", "1"):
        raise CorruptImage(
            f"mask '{path}' has mode {file.mode}; a mask is one channel of 8-bit labels (PNG of"
            " mode L or P)"
        )
    expected = _class_colours(labels)
    places = {colour: label for label, colour in enumerate(expected)}
    moved, stays = [], 0
    for index, colour in enumerate(_palette_of(file)):
        label = places.get(colour, index)
        if label != index:
            moved.append((index, label))
        elif colour in places:
            stays += 1
    if len(moved) > max(1, stays):
        index, label = moved[0]
        raise CorruptImage(
            f"mask '{path}' has the class colours in another order than the labels (index {index}"
            f" is drawn in the colour of label {label}): labels are the indices of a palette, so"
            " save it with the palette in the order of the classes, or as greyscale labels"
        )
    raw = file.tile[0][3] if getattr(file, "tile", None) else None
    return _GREY_STEPS.get(raw if isinstance(raw, str) else "", 1)


def _palette_of(file: Image.Image) -> list[tuple[int, ...]]:
    """The colours of a palette PNG, from its header; none for other files."""
    if file.mode != "P" or file.palette is None or file.palette.rawmode != "RGB":
        return []
    values = list(file.palette.palette)
    return [tuple(values[i : i + 3]) for i in range(0, len(values) - 2, 3)]


@cache
def _class_colours(labels: int | None) -> list[tuple[int, ...]]:
    return [tuple(colour) for colour in palette(labels or 256).tolist()]
