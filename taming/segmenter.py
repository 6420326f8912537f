"""A small U-Net (Ronneberger et al. 2015, arXiv 1505.04597) that labels the pixels of a picture."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Range

GROUPS = 8  # of the normalisation; they divide the width


class Segmenter(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, labels, H, W); any size.

    Args:
        labels: how many classes (masks have 8 bits).
        width: channels at full resolution, a multiple of 8; doubled at each level, up to 8 times.
        depth: how often the resolution is halved.
    """

    def __init__(
        self,
        labels: Annotated[int, Range(2, 256)],
        width: Annotated[int, Range(8, 1024)] = 32,
        depth: Annotated[int, Range(1, 8)] = 4,
    ):
        super().__init__()
        if width % GROUPS:
            raise ValueError(f"width {width} should be a multiple of {GROUPS}")
        if labels < 2 or depth < 1:
            raise ValueError(f"labels {labels} should be at least 2, depth {depth} at least 1")
        self.card: Any = None  # a data.card.Card, where the checkpoint has one
        self.labels, self.multiple = labels, 2**depth
        widths = [width * min(2**i, 8) for i in range(depth + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([3, *widths], widths))
        self.up = nn.ModuleList(_block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = nn.Conv2d(width, labels, 1)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        h = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        skips = []
        for level, block in enumerate(self.down):
            h = block(h if level == 0 else F.max_pool2d(h, 2))
            skips.append(h)
        for block, skip in zip(self.up, skips[-2::-1]):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0, mode="nearest"), skip], dim=1))
        return self.head(h)[..., :height, :width]


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = []
    for channels in (in_channels, out_channels):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers)
