"""Whether a decoder shows its grid of codes: in photographs neighbouring pixels differ as much at
one place within a code as at any other, and a decoder that is rewarded for texture puts it where
its own grid makes it cheap.
"""

import torch
from torch import Tensor


def grid_steps(image: Tensor, stride: int) -> Tensor:
    """Mean difference of neighbouring pixels at each place within a code.

    Args:
        image: (B, C, H, W), of which sides are at least twice the stride.
        stride: pixels a code.

    Returns:
        (B, 2, stride), across columns and across rows.
    """
    steps = []
    for axis in (-1, -2):
        each = image.diff(dim=axis).abs().transpose(axis, -1).flatten(1, -2).mean(dim=1)
        steps.append(each[:, : each.shape[1] // stride * stride].unflatten(1, (-1, stride)))
    return torch.stack([part.mean(dim=1) for part in steps], dim=1)


def grid_contrast(image: Tensor, stride: int) -> Tensor:
    """The same over all images and over its mean: (2, stride), 1 where no grid shows."""
    steps = grid_steps(image, stride).mean(dim=0)
    return steps / steps.mean(dim=1, keepdim=True).clamp(min=1e-6)
