"""Encoder and decoder of VQ-VAE: strided convolutions around a few residual blocks (van den Oord et
al. 2017, arXiv 1711.00937, section 4.1).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + (ReLU, 3x3, ReLU, 1x1)"""

    def __init__(self, width: int, residual_width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, residual_width, 3, padding=1)
        self.conv2 = nn.Conv2d(residual_width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Encoder(nn.Module):
    """(B, in_channels, H, W) -> (B, width, H / 2^halvings, W / 2^halvings)"""

    def __init__(
        self, in_channels: int, width: int, residual_width: int, blocks: int, halvings: int
    ):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Conv2d(width if i else in_channels, width, 4, stride=2, padding=1)
            for i in range(halvings)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width, residual_width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.down):
            x = layer(F.relu(x) if i else x)
        return F.relu(self.blocks(x))


class Decoder(nn.Module):
    """(B, in_channels, h, w) -> (B, out_channels, h 2^doublings, w 2^doublings); `up[-1]` is the
    last layer.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        residual_width: int,
        blocks: int,
        doublings: int,
        out_channels: int,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width, residual_width) for _ in range(blocks)))
        last = doublings - 1
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width, width if i < last else out_channels, 4, stride=2, padding=1)
            for i in range(doublings)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.conv_in(x))
        for layer in self.up:
            x = layer(F.relu(x))
        return x
