"""Pictures and tensors: [-1, 1] <-> uint8, grids, and the one palette that masks are drawn with."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from taming.errors import UserError
from taming.files import write_atomically

KEYWORD = "taming"  # under which a PNG has our text
CHUNK = 500_000  # characters of text in one piece
IGNORE = 255  # in a mask: no label, where there are at most 255 labels


# Ten landscape labels first (sky, tree, ground, grass, water, building or rock, mountain,
# foreground or sun, unknown or cloud, snow), then well-separated hues for any others.
_NAMED = [
    (135, 190, 235),
    (34, 94, 40),
    (170, 135, 95),
    (124, 180, 70),
    (30, 90, 160),
    (150, 60, 60),
    (120, 110, 105),
    (235, 170, 50),
    (190, 190, 205),
    (240, 245, 250),
]


def palette(labels: int) -> Tensor:
    """(labels, 3) uint8 colours, the same for a label whatever the number of labels."""
    colours = list(_NAMED)
    for i in range(labels - len(_NAMED)):
        hue = [int(127 + 110 * np.cos(2.4 * i + phase)) for phase in (0.0, 2.1, 4.2)]
        colours.append((hue[0], hue[1], hue[2]))
    return torch.tensor(colours[:labels], dtype=torch.uint8)


def colour_labels(
    labels: Tensor, count: int, colours: Sequence[Sequence[int]] | None = None
) -> Tensor:
    """Labels int64 (B, H, W), with IGNORE where there is none, as pictures (B, 3, H, W) in
    [-1, 1].

    Args:
        labels: in [0, count).
        count: how many there are.
        colours: of the labels; default: `palette`.
    """
    table = palette(count) if colours is None else torch.tensor(colours, dtype=torch.uint8)
    if count <= IGNORE:
        grey = table.new_full((IGNORE + 1 - count, 3), 128)
        table = torch.cat([table, grey])
    drawn = table.to(labels.device).float() / 127.5 - 1
    return drawn[labels].permute(0, 3, 1, 2)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] float (..., C, H, W) -> uint8, rounded to nearest; values outside are clamped."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def psnr(image: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB, at most 106.

    Args:
        image, other: (B, C, H, W) in [-1, 1].

    Returns:
        (B,)
    """
    for tensor in (image, other):
        _check_images(tensor, "psnr", 4)
    if image.shape != other.shape:
        raise UserError(
            f"psnr compares pictures of one shape, not {tuple(image.shape)} and"
            f" {tuple(other.shape)}"
        )
    error = (image - other).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def to_pil(image: Tensor) -> Image.Image:
    """(3 or 1, H, W) in [-1, 1] -> a PIL picture."""
    _check_images(image, "a picture", 3)
    if image.shape[0] not in (1, 3) or 0 in image.shape or not torch.isfinite(image).all():
        raise UserError(
            f"a picture is (3, H, W) or (1, H, W) of finite numbers; this one is"
            f" {tuple(image.shape)}{'' if torch.isfinite(image).all() else ' with NaN or infinity'}"
        )
    array = to_uint8(image).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def as_images(value: object) -> object:
    """A path, a PIL picture or an array of 8 bits as a batch of one, (1, 3, H, W) in [-1, 1];
    anything else as it is.

    Raises:
        UserError: no readable picture, or one that needs more care than RGB of 8 bits.
    """
    if isinstance(value, str | Path):
        try:
            with Image.open(value) as file:
                value = ImageOps.exif_transpose(file)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"'{value}' is no readable picture ({error})") from None
    if isinstance(value, Image.Image):
        if value.mode not in ("RGB", "L", "P", "CMYK", "YCbCr") or "transparency" in value.info:
            raise UserError(
                f"a picture of mode {value.mode}: read it with taming.read_image, which says what"
                " becomes of it"
            )
        value = np.array(value.convert("RGB"))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        pixels = value if value.ndim == 3 else np.repeat(value[..., None], 3, axis=-1)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def as_labels(value: object) -> object:
    """A PIL picture of labels or an array of whole numbers (H, W) as a batch of one, int64
    (1, H, W); anything else as it is.
    """
    if isinstance(value, str | Path) or isinstance(value, Image.Image) and value.mode not in "1LP":
        raise UserError("a mask of colours, or a file: read it with taming.read_mask(path, model)")
    if isinstance(value, Image.Image):
        value = np.array(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biu":
        labels = torch.from_numpy(value.astype(np.int64))
        return labels if labels.ndim == 3 else labels[None]
    return value


def _check_images(images: Tensor, place: str, dimensions: int) -> None:
    """Refuses what is no float tensor with so many dimensions."""
    shape = "(B, C, H, W)" if dimensions == 4 else "(C, H, W)"
    if not isinstance(images, Tensor):
        raise UserError(
            f"{place}: a tensor {shape} in [-1, 1] is expected, not a {type(images).__name__};"
            " taming.data.reading.to_tensor makes one of a PIL picture"
        )
    if images.ndim != dimensions or not images.is_floating_point():
        raise UserError(
            f"{place}: a float tensor {shape} in [-1, 1] is expected, not {images.dtype}"
            f" {tuple(images.shape)}"
        )


def montage(columns: Sequence[Tensor], scale: int = 1, gap: int = 2) -> Tensor:
    """Pictures side by side.

    Args:
        columns: each (B, 3, H, W) in [-1, 1]; row b of the result shows picture b of each.
        scale: enlarges every pixel so many times.
        gap: white pixels around each picture.

    Returns:
        (3, H', W')
    """
    for column in columns:
        _check_images(column, "montage", 4)
    if not columns or len({column.shape[1] for column in columns}) > 1 or scale < 1 or gap < 0:
        shapes = ", ".join(str(tuple(column.shape)) for column in columns) or "nothing"
        raise UserError(
            f"montage of {shapes}, scale {scale}, gap {gap}: columns (B, C, H, W) with the same"
            " channels are expected, scale at least 1, gap at least 0"
        )
    rows = min(len(column) for column in columns)
    height = max(column.shape[-2] for column in columns)
    stacks = []
    for column in columns:
        margins = (gap, gap, gap, gap + height - column.shape[-2])
        cells = torch.nn.functional.pad(column[:rows].cpu().float(), margins, value=1.0)
        stacks.append(torch.cat(list(cells), dim=-2))
    picture = torch.cat(stacks, dim=-1)
    return picture.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def contact_sheet(images: Tensor, columns: int = 8, gap: int = 2) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> one picture (3, H', W') with so many columns, filled row by row;
    missing cells are white.
    """
    _check_images(images, "contact_sheet", 4)
    missing = -len(images) % columns
    cells = torch.cat([images.cpu().float(), images.new_ones(missing, *images.shape[1:]).cpu()])
    return montage([cells[c::columns] for c in range(columns)], gap=gap)


def save(image: Tensor | Image.Image, path: str | Path, metadata: dict | None = None) -> None:
    """Writes a PNG, complete or not at all.

    Args:
        image: (3 or 1, H, W) in [-1, 1], or a PIL picture.
        path: the file.
        metadata: plain values that `read_metadata` gives back.
    """
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    texts = PngInfo()
    if metadata is not None:
        text = json.dumps(metadata, sort_keys=True)
        # Readers refuse longer texts as possible bombs
        for number, start in enumerate(range(0, len(text), CHUNK)):
            name = KEYWORD if number == 0 else f"{KEYWORD}{number}"
            texts.add_text(name, text[start : start + CHUNK], zip=True)
    write_atomically(path, lambda file: picture.save(file, format="PNG", pnginfo=texts))


def save_film(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Writes a GIF that stops at its last frame for a while, complete or not at all."""
    rest = [*frames[1:], *[frames[-1]] * 8]

    def write(file: Path) -> None:
        frames[0].save(file, format="GIF", save_all=True, append_images=rest, duration=80, loop=0)

    write_atomically(path, write)


def read_metadata(path: str | Path) -> dict | None:
    """What `save` wrote into a PNG. None for a picture without, a file that is no PNG, and text
    that `save` does not write. The values are those of a file: the caller checks them.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            texts = picture.text
        parts = [texts[KEYWORD]]
        while f"{KEYWORD}{len(parts)}" in texts:
            parts.append(texts[f"{KEYWORD}{len(parts)}"])
        metadata = json.loads("".join(parts), parse_constant=_refuse_constant)
    except Exception:  # Pillow raises many kinds, deep nesting another
        return None
    return metadata if isinstance(metadata, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
