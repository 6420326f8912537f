"""Encoder and decoder of VQ-GAN: residual blocks with group normalisation, attention at the
coarsest scale (Esser et al. 2021, arXiv 2012.09841, table 7).

Parameter names are those of the published state dicts: `down.{i}.block.{j}`, `mid.attn_1`,
`up.{i}.upsample.conv`, ... There, `up` is indexed by level and run from the highest down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, cast

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.attention import attend
from taming.first_stage.normalization import GroupNorm
from taming.first_stage.steps import Steps

Padding = Literal["zeros", "replicate"]
"""What a 3x3 convolution sees outside of a picture: zeros, as published, or its outermost pixels
again."""


@dataclass(frozen=True)
class Layers:
    """What all blocks of a network share."""

    dropout: float = 0.0
    padding: Padding = "zeros"
    groups: int = 32

    def conv3x3(self, channels_in: int, channels_out: int) -> nn.Conv2d:
        return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=self.padding)

    def norm(self, channels: int) -> GroupNorm:
        return GroupNorm(channels, self.groups)


PUBLISHED = Layers()


@dataclass(frozen=True)
class Scales:
    """What an encoder and its decoder share: widths and depths, scale by scale from fine to coarse.

    Args:
        channels: width of the first scale's unit.
        multipliers: width of each scale in this unit.
        blocks: residual blocks per scale; the decoder has one more.
        attention: indices of the scales with attention.
        latent_channels: width between the two.
        middle_attention: between the two middle blocks.
        layers: what all blocks are made of.
    """

    channels: int
    multipliers: Sequence[int]
    blocks: int
    attention: Sequence[int]
    latent_channels: int
    middle_attention: bool
    layers: Layers

    @property
    def widths(self) -> list[int]:
        return [self.channels * multiplier for multiplier in self.multipliers]

    def level(self, number: int, before: int, blocks: int) -> "Level":
        """The blocks of scale `number`, which `before` channels enter."""
        width, attention = self.widths[number], number in self.attention
        return Level(before, width, blocks, attention, self.layers)


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, layers: Layers = PUBLISHED):
        super().__init__()
        self.norm1 = layers.norm(channels_in)
        self.conv1 = layers.conv3x3(channels_in, channels_out)
        self.norm2 = layers.norm(channels_out)
        self.dropout = nn.Dropout(layers.dropout)
        self.conv2 = layers.conv3x3(channels_out, channels_out)
        self.nin_shortcut = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, layers: Layers = PUBLISHED):
        super().__init__()
        self.norm = layers.norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # Strided ones take a path that builds the matrix of all positions by all positions: 2.4 GB
        # for 128 x 128 of them, 155 GB for 512 x 384
        q, k, v = (
            rearrange(layer(h), "b c h w -> b 1 (h w) c").contiguous()
            for layer in (self.q, self.k, self.v)
        )
        h = attend(q, k, v)
        return x + self.proj_out(rearrange(h, "b 1 (h w) c -> b c h w", h=x.shape[-2]).contiguous())


class Downsample(nn.Module):
    """Halves height and width; pads right and bottom only, as published."""

    def __init__(self, channels: int, layers: Layers):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        self.mode = "constant" if layers.padding == "zeros" else layers.padding

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1), mode=self.mode))


class Upsample(nn.Module):
    def __init__(self, channels: int, layers: Layers):
        super().__init__()
        self.conv = layers.conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(Steps):
    """The blocks of one scale: residual blocks, each followed by attention where there is some, and
    what leads to the next scale, which the networks put here.
    """

    def __init__(
        self, channels_in: int, channels_out: int, blocks: int, attention: bool, layers: Layers
    ):
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(channels_in if j == 0 else channels_out, channels_out, layers)
            for j in range(blocks)
        )
        self.attn = nn.ModuleList(
            Attention(channels_out, layers) for _ in range(blocks if attention else 0)
        )
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def steps(self) -> list[nn.Module]:
        both = zip(self.block, self.attn) if self.attn else zip(self.block)
        return [*chain.from_iterable(both), self.downsample, self.upsample]


class Middle(Steps):
    def __init__(self, channels: int, attention: bool, layers: Layers):
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, layers)
        self.attn_1 = Attention(channels, layers) if attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels, layers)

    def steps(self) -> list[nn.Module]:
        return [self.block_1, self.attn_1, self.block_2]


class Encoder(Steps):
    """(B, in_channels, H, W) -> (B, latent_channels, H / f, W / f), f = 2^(levels - 1). H and W
    must be divisible by f.
    """

    def __init__(self, in_channels: int, scales: Scales):
        super().__init__()
        layers, widths = scales.layers, scales.widths
        self.conv_in = layers.conv3x3(in_channels, scales.channels)
        self.down = nn.ModuleList()
        for i, before in enumerate([scales.channels, *widths[:-1]]):
            level = scales.level(i, before, scales.blocks)
            if i < len(widths) - 1:
                level.downsample = Downsample(widths[i], layers)
            self.down.append(level)
        self.mid = Middle(widths[-1], scales.middle_attention, layers)
        self.norm_out = layers.norm(widths[-1])
        self.conv_out = layers.conv3x3(widths[-1], scales.latent_channels)

    def steps(self) -> list[Callable[[Tensor], Tensor]]:
        levels = chain.from_iterable(level.steps() for level in cast("list[Level]", self.down))
        return [self.conv_in, *levels, *self.mid.steps(), self._end]

    def forward(self, x: Tensor) -> Tensor:
        """Level by level: who recomputes or shards them wraps their forward."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self._end(self.mid(h))

    def _end(self, h: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, out_channels, h f, w f); one residual block more per level
    than the encoder, no output nonlinearity.
    """

    def __init__(self, out_channels: int, scales: Scales):
        super().__init__()
        layers, widths = scales.layers, scales.widths
        self.conv_in = layers.conv3x3(scales.latent_channels, widths[-1])
        self.mid = Middle(widths[-1], scales.middle_attention, layers)
        self.up = nn.ModuleList()
        for i, before in enumerate([*widths[1:], widths[-1]]):
            level = scales.level(i, before, scales.blocks + 1)
            if i > 0:
                level.upsample = Upsample(widths[i], layers)
            self.up.append(level)
        self.norm_out = layers.norm(widths[0])
        self.conv_out = layers.conv3x3(widths[0], out_channels)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
