"""Which colours come back, and whether pictures have a frame or show their grid of codes: what a
mean over all pixels and channels, such as PSNR, hides.

Brightness has twenty times the variance of red against green in photographs of landscapes, so that
a tokenizer can lose the latter and keep its PSNR; and the outermost pixels are a few in a hundred.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from taming.evaluation.intervals import Estimate, bootstrap
from taming.evaluation.rows import Rows
from taming.first_stage.colour import BT601
from taming.first_stage.grid import grid_steps
from taming.images import to_uint8

CHANNELS = ("y", "cb", "cr")
MOMENTS = 6  # of a channel: x, y, x^2, y^2, x y, |x - y|
SATURATED = 48  # grey levels between the largest and the smallest of red, green and blue
TURN = 30  # degrees that a hue may turn and still be called the same
CLEAR = 20  # grey levels by which a channel exceeds both others in a clearly red or green pixel
HUES = {"hue": None, "hue_red": 0, "hue_green": 1}  # the channel that is the largest; None: any
NOTES = {
    "correlation": "over pixels, of {} (BT.601)",
    "error": "grey levels, mean over pixels, of {} (BT.601)",
    "hue": f"share of pixels with {SATURATED} grey levels between their channels that keep their"
    f" hue to {TURN} degrees, and half of these levels",
    "hue_red": f"share of pixels, red {CLEAR} levels above the others where it stays on top",
    "hue_green": f"share of pixels, green {CLEAR} levels above the others where it stays on top",
    "border": "grey levels, mean over the outermost pixels",
    "corner": "grey levels, mean over the four corner pixels",
    "inside": "grey levels, mean over all other pixels",
    "grid": "differences of neighbouring pixels at each place within a code, over their mean,"
    " against the original's; root mean square",
}


def measured(original: Tensor, image: Tensor, stride: int = 1) -> dict[str, Tensor]:
    """Rows of pictures (B, 3, H, W) in [-1, 1], both rounded to 8 bits; {} for other pictures.

    Args:
        original: before.
        image: after.
        stride: pixels a code.

    Returns:
        colour (B, 3, MOMENTS), means over pixels of Y, Cb and Cr in grey levels; hues (B, 3, 2),
        how many pixels have a hue and how many keep it, for each of HUES; border (B, 3), the mean
        error of the outermost pixels, of the corners, and of the others; grid (B, 2, 2, stride),
        `grid_steps` of both, where there is a grid to show.
    """
    if original.shape[1] != 3:
        return {}
    x, y = (to_uint8(picture).double() for picture in (original, image))
    rows = {"colour": _moments(x, y), "hues": _hues(x, y), "border": _border(x, y)}
    if 1 < stride <= min(original.shape[-2:]) / 2:
        rows["grid"] = torch.stack([grid_steps(part, stride) for part in (x, y)], dim=1)
    return rows


def _moments(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.tensor(BT601, dtype=x.dtype, device=x.device)
    x, y = (torch.einsum("kc,bchw->bkhw", matrix, part) for part in (x, y))
    products = (x, y, x.square(), y.square(), x * y, (x - y).abs())
    return torch.stack([product.mean(dim=(2, 3)) for product in products], dim=2)


def _hues(x: Tensor, y: Tensor) -> Tensor:
    (hue, chroma), (hue_after, chroma_after) = hue_and_chroma(x), hue_and_chroma(y)
    survives = (_turn(hue, hue_after) <= TURN) & (chroma_after >= SATURATED / 2)
    counts = []
    for channel in HUES.values():
        if channel is None:
            chosen, stays = chroma >= SATURATED, survives
        else:
            chosen, stays = (_lead(part, channel) >= least for part, least in ((x, CLEAR), (y, 1)))
        counts.append(torch.stack([chosen, chosen & stays], dim=1).sum(dim=(2, 3)))
    return torch.stack(counts, dim=1)


def _lead(image: Tensor, channel: int) -> Tensor:
    """Grey levels by which a channel exceeds both others, (B, H, W)."""
    others = [index for index in range(3) if index != channel]
    return image[:, channel] - image[:, others].amax(dim=1)


def hue_and_chroma(image: Tensor) -> tuple[Tensor, Tensor]:
    """(degrees in [0, 360), largest less smallest channel), each (B, H, W), of (B, 3, H, W); red
    is 0, green 120, blue 240, as in HSV.
    """
    red, green, blue = image.unbind(dim=1)
    largest, chroma = image.amax(dim=1), image.amax(dim=1) - image.amin(dim=1)
    unit = chroma.clamp(min=torch.finfo(image.dtype).tiny)
    sixths = torch.where(
        largest == red,
        (green - blue) / unit % 6,
        torch.where(largest == green, (blue - red) / unit + 2, (red - green) / unit + 4),
    )
    return 60 * sixths, chroma


def _turn(one: Tensor, other: Tensor) -> Tensor:
    """Degrees between hues, at most 180."""
    turn = (one - other).abs()
    return torch.minimum(turn, 360 - turn)


def _border(x: Tensor, y: Tensor) -> Tensor:
    error = (x - y).abs().mean(dim=1)
    border = torch.ones_like(error[0], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    corners = error[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    inside = error[:, ~border] if (~border).any() else error.flatten(1)
    return torch.stack([part.mean(dim=1) for part in (error[:, border], corners, inside)], dim=1)


def figures(rows: Rows, seed: int) -> dict[str, Estimate]:
    """correlation_y, error_y, ..., hue, hue_red, hue_green, border_error, corner_error,
    inside_error and grid_error, with a bootstrap over pictures; a hue that no picture has is left
    out, and so are the correlation of a channel and the grid of pictures that do not vary.

    Args:
        rows: of `measured`.
        seed: of the bootstrap.
    """
    if "colour" not in rows:
        return {}
    colour, hues, border = (np.asarray(rows[key]) for key in ("colour", "hues", "border"))
    estimates = {}

    def add(name: str, statistic: Callable[[np.ndarray], float]) -> None:
        if np.isfinite(statistic(np.ones(len(colour)))):
            estimates[name] = bootstrap(len(colour), statistic, seed)

    for index, channel in enumerate(CHANNELS):
        add(f"correlation_{channel}", lambda w, i=index: correlation(w @ colour[:, i] / w.sum()))
        add(f"error_{channel}", lambda w, i=index: float(w @ colour[:, i, -1] / w.sum()))
    for index, name in enumerate(HUES):
        if hues[:, index, 0].any():
            add(name, lambda w, i=index: _share(w @ hues[:, i]))
    for index, name in enumerate(("border", "corner", "inside")):
        add(f"{name}_error", lambda w, i=index: float(w @ border[:, i] / w.sum()))
    if "grid" in rows:
        grid = np.asarray(rows["grid"])
        add("grid_error", lambda w: _contrast_error(np.tensordot(w, grid, axes=1)))
    return estimates


def _contrast_error(steps: np.ndarray) -> float:
    """Of (original or not, axis, place within a code); NaN where pictures do not vary."""
    means = steps.mean(axis=-1, keepdims=True)
    if not means.all():
        return float("nan")
    before, after = steps / means
    return float(np.sqrt(np.mean((after - before) ** 2)))


def correlation(moments: np.ndarray) -> float:
    """Of two variables, from the means of x, y, x^2, y^2 and x y; NaN where one does not vary."""
    x, y, xx, yy, xy = moments[:5]
    variances = (xx - x * x) * (yy - y * y)
    if variances <= 1e-12 * max(1.0, xx * yy):
        return float("nan")
    return float((xy - x * y) / np.sqrt(variances))


def _share(counts: np.ndarray) -> float:
    """0 for a draw without any such pixel: the picture that has them was not drawn."""
    return float(counts[1] / counts[0]) if counts[0] else 0.0


def note(name: str) -> str:
    """What a figure is over, in words."""
    kind, _, channel = name.partition("_")
    return NOTES.get(name, NOTES[kind]).format(channel.capitalize())
