"""Pictures and tensors: [-1, 1] <-> uint8, grids, and the one palette that masks are drawn with."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from taming.files import write_atomically

CHUNK = 500_000  # characters of text in one piece


# Ten landscape labels first (sky, tree, ground, grass, water, building or rock, mountain,
# foreground or sun, unknown or cloud, snow), then well-
# separated hues for any others.
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
    extra = [
        tuple(int(127 + 110 * np.cos(2.4 * i + phase)) for phase in (0.0, 2.1, 4.2))
        for i in range(max(0, labels - len(_NAMED)))
    ]
    return torch.tensor((_NAMED + extra)[:labels], dtype=torch.uint8)


def colour_labels(labels: Tensor, count: int) -> Tensor:
    """Labels int64 (B, H, W) as pictures (B, 3, H, W) in [-1, 1]."""
    colours = palette(count).to(labels.device).float() / 127.5 - 1
    return colours[labels].permute(0, 3, 1, 2)


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
    error = (image - other).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def to_pil(image: Tensor) -> Image.Image:
    """(3 or 1, H, W) in [-1, 1] -> a PIL picture."""
    array = to_uint8(image).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def montage(columns: list[Tensor], scale: int = 1, gap: int = 2) -> Tensor:
    """Pictures side by side: each entry of `columns` is (B, 3, H, W) in [-1, 1]; row b of the
    result shows picture b of each. Returns (3, H', W').
    """
    rows = min(len(c) for c in columns)
    height = max(c.shape[-2] for c in columns)
    cells = [
        torch.nn.functional.pad(
            c[:rows].cpu().float(), (gap, gap, gap, gap + height - c.shape[-2]), value=1.0
        )
        for c in columns
    ]
    picture = torch.cat([torch.cat(list(c), dim=-2) for c in cells], dim=-1)
    return picture.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def contact_sheet(images: Tensor, columns: int = 8, gap: int = 2) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> one picture (3, H', W') with so many columns, filled row by row;
    missing cells are white.
    """
    missing = -len(images) % columns
    filled = torch.cat([images.cpu().float(), images.new_ones(missing, *images.shape[1:]).cpu()])
    return montage([filled[c::columns] for c in range(columns)], gap=gap)


def save(image: Tensor | Image.Image, path: str | Path, about: dict | None = None) -> None:
    """Writes a PNG whole or not at all. about: kept inside, see `read_about`."""
    picture = to_pil(image) if isinstance(image, Tensor) else image
    texts = PngInfo()
    if about is not None:
        text = json.dumps(about, sort_keys=True)
        # Readers refuse longer texts as possible bombs
        for number, start in enumerate(range(0, len(text), CHUNK)):
            texts.add_text(
                "taming" if number == 0 else f"taming{number}",
                text[start : start + CHUNK],
                zip=True,
            )
    write_atomically(path, lambda file: picture.save(file, format="PNG", pnginfo=texts))


def save_film(frames: list[Image.Image], path: str | Path) -> None:
    """Writes a GIF, its last frame held, whole or not at all."""
    shown = [*frames[1:], *[frames[-1]] * 8]
    write_atomically(
        path,
        lambda file: frames[0].save(
            file, format="GIF", save_all=True, append_images=shown, duration=80, loop=0
        ),
    )


def read_about(path: str | Path) -> dict | None:
    """What `save` kept inside a PNG; None for a picture from elsewhere."""
    try:
        with Image.open(path) as picture:
            picture.load()
            texts = getattr(picture, "text", {})
    except (OSError, ValueError):
        return None
    if "taming" not in texts:
        return None
    parts = [texts["taming"]]
    while f"taming{len(parts)}" in texts:
        parts.append(texts[f"taming{len(parts)}"])
    return json.loads("".join(parts))
