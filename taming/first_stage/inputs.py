"""What comes in through the doors of a first stage: images, labels, latents and codes are checked
once, harmless types are cast, and anything else is refused in one line.

Values are looked at only where the caller says so, since looking at them waits for a GPU.
"""

import functools
import math
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.errors import UserError
from taming.images import IGNORE

LIMIT = 2.0  # |image| of a decoder that overshoots stays below; 0..255 and ImageNet's units do not


def check_image(image: Any, channels: int, weight: Tensor, values: bool = True) -> Tensor:
    """An image batch (B, channels, H, W) in the dtype of `weight`, a parameter of the model.

    Raises:
        UserError: for another type, shape or device, and, with `values`, for what is not finite or
            clearly outside [-1, 1].
    """
    _check_tensor(image, f"an image batch should be a tensor (B, {channels}, H, W) in [-1, 1]")
    if image.ndim != 4 or image.shape[1] != channels:
        raise UserError(
            f"the image batch has shape {tuple(image.shape)}, but (B, {channels}, H, W) in [-1, 1]"
            " is expected"
        )
    if not image.is_floating_point():
        raise UserError(
            f"the image batch is {_name(image.dtype)}, but floats in [-1, 1] are expected;"
            " image / 127.5 - 1 makes them of 0 to 255"
        )
    _check_device(image, weight, "image batch")
    if values:
        _check_image_values(image)
    return image.to(weight.dtype)


def check_labels(labels: Any, count: int, weight: Tensor, values: bool = True) -> Tensor:
    """Label maps (B, H, W) as int64 in [0, count), with IGNORE where there is no label.

    Raises:
        UserError: for another type, shape or device, and, with `values`, for labels out of range.
    """
    _check_tensor(labels, "a mask batch should be a tensor of int64 labels (B, H, W)")
    if labels.ndim != 3 or labels.is_floating_point() or labels.is_complex():
        raise UserError(
            f"the mask batch has shape {tuple(labels.shape)} and type {_name(labels.dtype)}, but"
            " int64 labels (B, H, W) are expected"
        )
    _check_device(labels, weight, "mask batch")
    known = labels[labels != IGNORE] if values and count <= IGNORE else labels
    low, high = _span(known) if values else (0, 0)
    if low < 0 or high >= count:
        bound = f"reach {high:g}" if high >= count else f"begin at {low:g}"
        raise UserError(
            f"labels {bound} but this mask tokenizer knows 0 to {count - 1}; was it trained on"
            " another class list?"
        )
    return labels.long()


def one_hot(labels: Tensor, count: int) -> Tensor:
    """Labels int64 (B, H, W) -> (B, count, H, W); all zero where there is no label (IGNORE)."""
    if count > IGNORE:
        return F.one_hot(labels, count).permute(0, 3, 1, 2)
    known = torch.where(labels == IGNORE, count, labels)
    return F.one_hot(known, count + 1).permute(0, 3, 1, 2)[:, :count]


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, count, H, W), the mean over the pixels that have a label."""
    if logits.shape[1] > IGNORE:
        return F.cross_entropy(logits, labels)
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def check_latent(latent: Any, dim: int, weight: Tensor) -> Tensor:
    """A latent (B, dim, h, w) in the dtype of `weight`.

    Raises:
        UserError: for another type, shape or device, and for what is not finite.
    """
    _check_tensor(latent, f"a latent should be a tensor (B, {dim}, h, w)")
    if latent.ndim != 4 or latent.shape[1] != dim or not latent.is_floating_point():
        raise UserError(
            f"the latent has shape {tuple(latent.shape)} and type {_name(latent.dtype)}, but floats"
            f" (B, {dim}, h, w) are expected"
        )
    _check_device(latent, weight, "latent")
    if not all(map(math.isfinite, _span(latent))):
        raise UserError("the latent holds numbers that are not finite (NaN or infinite)")
    return latent.to(weight.dtype)


def check_codes(codes: Any, num_codes: tuple[int, ...], weight: Tensor) -> tuple[Tensor, ...]:
    """One int64 grid (B, h, w) per level, each in [0, K).

    Raises:
        UserError: for another number of levels, type, shape, device or range.
    """
    levels = len(num_codes)
    expected = f"a tuple of {levels} int64 {'grid' if levels == 1 else 'grids'} (B, h, w)"
    if not isinstance(codes, tuple | list):
        cure = "; pass (codes,)" if isinstance(codes, Tensor) else ""
        raise UserError(f"codes should be {expected}, not a {type(codes).__name__}{cure}")
    if len(codes) != levels:
        raise UserError(f"{len(codes)} grids of codes are given, but this first stage has {levels}")
    for grid, count in zip(codes, num_codes):
        _check_tensor(grid, f"codes should be {expected}")
        if grid.ndim != 3 or grid.is_floating_point() or grid.dtype == torch.bool:
            raise UserError(
                f"codes have shape {tuple(grid.shape)} and type {_name(grid.dtype)}, but int64"
                " (B, h, w) are expected"
            )
        _check_device(grid, weight, "codes")
        low, high = _span(grid)
        if low < 0 or high >= count:
            raise UserError(
                f"codes span {low:g} to {high:g} but this first stage knows 0 to {count - 1}; were"
                " they made by another one?"
            )
    return tuple(grid.long() for grid in codes)


def check_divides(height: int, width: int, multiple: int) -> None:
    """Raises UserError for sides that the downsampling does not divide, or that are below it."""
    if min(height, width) < multiple:
        raise UserError(
            f"size {height}x{width} is smaller than the downsampling factor {multiple}; take at"
            f" least {multiple}x{multiple}, or pad with interface.pad_to_multiple"
        )
    if height % multiple or width % multiple:
        raise UserError(
            f"size {height}x{width} is not divisible by the downsampling factor {multiple}; take"
            f" {height // multiple * multiple}x{width // multiple * multiple}, or pad with"
            " interface.pad_to_multiple"
        )


def precise(device: torch.device) -> torch.dtype:
    """float64, but on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _check_image_values(image: Tensor) -> None:
    low, high = _span(image)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError("the image batch holds numbers that are not finite (NaN or infinite)")
    if max(-low, high) > LIMIT:
        raise UserError(
            f"the image batch spans {low:g} to {high:g}, but [-1, 1] is expected; image / 127.5 - 1"
            " makes it of 0 to 255"
        )
    if 0 <= low < 0.25 and 0.5 < high <= 1:
        _warn_once(
            "an image batch lies within [0, 1], and [-1, 1] is expected; unless it is a bright"
            " picture, pass 2 * image - 1"
        )


@functools.cache
def _warn_once(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _span(values: Tensor) -> tuple[float, float]:
    """Lowest and highest, in one look; NaN where there is one."""
    if not values.numel() or values.is_meta:
        return 0, 0
    low, high = values.detach().aminmax()
    return tuple(torch.stack([low, high]).tolist())


def _check_tensor(value: Any, expected: str) -> None:
    if not isinstance(value, Tensor):
        raise UserError(f"{expected}, not a {type(value).__module__}.{type(value).__name__}")
    if value.is_nested or value.layout is not torch.strided:
        raise UserError(f"{expected}, not a nested or sparse one; make it dense")


def _check_device(value: Tensor, weight: Tensor, name: str) -> None:
    if value.device != weight.device:
        raise UserError(
            f"the {name} is on {value.device}, but the model on {weight.device}; move one of them"
            " with .to()"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
