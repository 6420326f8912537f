"""Edges of pictures: Sobel's gradient, thinned to its ridges as Canny does (1986), as a condition
that anybody can draw.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.config.ranges import Range
from taming.data.around import Around
from taming.data.interface import PictureSet

LUMA = (0.299, 0.587, 0.114)
Threshold = Annotated[float, Range(0, 1)]


def edges_of(image: Tensor, threshold: float = 0.1) -> Tensor:
    """(B, 1, H, W): 1 on edges, -1 elsewhere.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        threshold: the least change of brightness from one pixel to the next, as a share of that
            from black to white.
    """
    grey = (image.float() * image.new_tensor(LUMA).float()[:, None, None]).sum(1, keepdim=True) / 2
    # 1. a little blur, so that grain is no edge, and the gradient of it
    blurred = _filtered(grey, torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    dx, dy = _filtered(blurred, sobel), _filtered(blurred, sobel.T)
    strength = (dx.square() + dy.square()).sqrt()
    # 2. only where neither neighbour along the gradient is stronger
    padded = F.pad(strength, (1, 1, 1, 1))
    height, width = strength.shape[-2:]

    def beside(rows: int, columns: int) -> Tensor:
        return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    steep, flat = dy.abs() > 2.414 * dx.abs(), dx.abs() > 2.414 * dy.abs()  # tan 67.5 degrees
    falling = dx * dy > 0
    before = torch.where(falling, beside(-1, -1), beside(-1, 1))
    after = torch.where(falling, beside(1, 1), beside(1, -1))
    for direction, one, other in (
        (steep, beside(-1, 0), beside(1, 0)),
        (flat, beside(0, -1), beside(0, 1)),
    ):
        before, after = torch.where(direction, one, before), torch.where(direction, other, after)
    ridge = (strength >= before) & (strength > after) & (strength > threshold)
    return ridge.to(image.dtype) * 2 - 1


def _filtered(image: Tensor, kernel: Tensor) -> Tensor:
    weight = kernel.to(image)[None, None]
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), weight)


class EdgeImages(Around):
    """The items of another data set with "edges" float (1, H, W) in {-1, 1}.

    Args:
        source: the data set.
        threshold: the least change of brightness from one pixel to the next, as a share of that
            from black to white.
    """

    def __init__(self, source: PictureSet, threshold: Threshold = 0.1):
        super().__init__(source, threshold)
        self.threshold = threshold

    def __getitem__(self, key: int | tuple[int, int | None]) -> dict:
        item = self.item(key)
        return {**item, "edges": edges_of(item["image"][None], self.threshold)[0]}
