"""The tokenizer of MaskGIT (Chang et al. 2022, arXiv 2202.04200), which RAR, MAGE and aMUSEd use
too: VQ-GAN's networks without attention, with average pooling, on pixels in [0, 1].

Parameter names are those of the published state dicts.
"""

from collections.abc import Callable
from itertools import chain
from typing import Annotated, cast

import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Range
from taming.first_stage.interface import FirstStage, Quantizer
from taming.first_stage.normalization import GroupNorm
from taming.first_stage.ranges import Channels, Multipliers, Width
from taming.first_stage.steps import Steps


class MaskGITVQGAN(FirstStage):
    """Images (B, in_channels, H, W) in [-1, 1] <-> one grid of codes (B, H / f, W / f), f =
    2^(len(multipliers) - 1).

    Args:
        channels: width of the first convolution.
        multipliers: width of each scale, fine to coarse, in units of `channels`.
        quantizer: of the encoder's features themselves; its dim is their width.
        blocks: residual blocks per scale, and in the middle.
        in_channels: of the images.
        key: the entry of a batch that is read.
    """

    def __init__(
        self,
        channels: Width,
        multipliers: Multipliers,
        quantizer: Quantizer,
        blocks: Annotated[int, Range(1, 128)] = 2,
        in_channels: Channels = 3,
        key: str = "image",
    ):
        stride = 2 ** (len(multipliers) - 1)
        super().__init__(quantizer, quantizer.num_codes, stride, in_channels, key)
        widths = [channels * multiplier for multiplier in multipliers]
        self.encoder = Encoder(in_channels, channels, widths, blocks, quantizer.dim)
        self.decoder = Decoder(in_channels, widths, blocks, quantizer.code_dim)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.conv_out.get_parameter("weight")

    def _run_encoder(self, x: Tensor) -> Tensor:
        return self.encoder((x + 1) / 2)

    def _run_decoder(self, latent: Tensor) -> Tensor:
        return 2 * self.decoder(latent) - 1


class ResidualBlock(nn.Module):
    """Where the width changes, the shortcut is a 1x1 convolution of the branch, not of x, as
    published.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1 = GroupNorm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.nin_shortcut = (
            nn.Conv2d(after, after, 1, bias=False) if before != after else nn.Identity()
        )
        self.widens = before != after

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.nin_shortcut(h if self.widens else x)


class Scale(nn.Module):
    """The blocks of one scale; in the decoder, all but the finest then double the sides."""

    def __init__(self, before: int, after: int, blocks: int, doubles: bool = False):
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before if i == 0 else after, after) for i in range(blocks)
        )
        self.upsample_conv = nn.Conv2d(after, after, 3, padding=1) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.upsample_conv is None:
            return x
        return self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(Steps):
    """(B, in_channels, H, W) -> (B, out_channels, H / f, W / f)"""

    def __init__(
        self, in_channels: int, channels: int, widths: list[int], blocks: int, out_channels: int
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        befores = [channels, *widths]
        self.down = nn.ModuleList(Scale(a, b, blocks) for a, b in zip(befores, widths))
        self.mid = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(blocks))
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 1)

    def steps(self) -> list[Callable[[Tensor], Tensor]]:
        first, *coarser = (scale.block for scale in cast("list[Scale]", self.down))
        scales = [*first, *chain.from_iterable((nn.AvgPool2d(2), *blocks) for blocks in coarser)]
        return [self.conv_in, *scales, *self.mid, self._end]

    def forward(self, x: Tensor) -> Tensor:
        """Scale by scale: who recomputes or shards them wraps their forward."""
        x = self.conv_in(x)
        for i, scale in enumerate(self.down):
            x = scale(F.avg_pool2d(x, 2) if i else x)
        for block in self.mid:
            x = block(x)
        return self._end(x)

    def _end(self, x: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B, in_channels, h, w) -> (B, out_channels, h f, w f); `up` counts from the finest scale."""

    def __init__(self, out_channels: int, widths: list[int], blocks: int, in_channels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = nn.ModuleList(ResidualBlock(widths[-1], widths[-1]) for _ in range(blocks))
        befores = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Scale(before, after, blocks, doubles=i > 0)
            for i, (before, after) in enumerate(zip(befores, widths))
        )
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        z = self.conv_in(z)
        for block in self.mid:
            z = block(z)
        for scale in reversed(self.up):
            z = scale(z)
        return self.conv_out(F.silu(self.norm_out(z)))
