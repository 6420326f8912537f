"""A discriminator on frozen features (Sauer et al. 2021, arXiv 2111.01007, section 3): it need not
learn to see before it can judge, which helps most where pictures are few.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from taming.config.ranges import InputFile, Range
from taming.first_stage.discriminator import Discriminator
from taming.first_stage.perceptual import VGG_BLOCKS, VGGDistance
from taming.first_stage.ranges import Width


class ProjectedDiscriminator(Discriminator):
    """Images (B, 3, H, W) -> logits (B, blocks, h, w), one layer for each block, each of the size
    of the first's, positive for real.

    The feature maps of each block are mixed across channels, and each with the coarser one, by
    convolutions that are drawn once and never learned; a small network judges each of them.

    Args:
        features: the path of a VGG16 weights file, see perceptual.VGGDistance.
        width: channels of the mixed maps.
        blocks: of the network, fine to coarse; the first has the size of the picture.
    """

    def __init__(
        self, features: InputFile, width: Width = 64, blocks: Annotated[int, Range(1, 5)] = 4
    ):
        super().__init__()
        network = VGGDistance(features, blocks).requires_grad_(False).eval()
        self._network = (network,)  # in a tuple, so that its weights stay out of the checkpoint
        widths = [channels[-1] for channels in VGG_BLOCKS[:blocks]]
        self.across_channels = nn.ModuleList(fixed(n, width, 1) for n in widths)
        self.across_scales = nn.ModuleList(fixed(width, width, 3) for _ in widths[1:])
        self.heads = nn.ModuleList(head(width) for _ in widths)

    def _apply(self, fn, recurse: bool = True):
        self._network[0]._apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.mixed(image)
        logits = [judge(m) for judge, m in zip(self.heads, maps)]
        size = logits[0].shape[-2:]
        return torch.cat([F.interpolate(one, size=size) for one in logits], dim=1)

    def mixed(self, image: Tensor) -> list[Tensor]:
        """The maps (B, width, h, w) of each block, of about unit variance, fine to coarse."""
        features = self._network[0].maps(image)
        maps = [mix(normalised(h)) for mix, h in zip(self.across_channels, features)]
        for k in range(len(maps) - 2, -1, -1):
            above = F.interpolate(maps[k + 1], size=maps[k].shape[-2:])
            maps[k] = (maps[k] + self.across_scales[k](above)) / 2**0.5
        return maps


def normalised(features: Tensor) -> Tensor:
    """Divided by the root of their mean square in each picture: blocks differ by powers of ten."""
    scale = features.float().square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return features / (scale + 1e-6).to(features.dtype)


def fixed(channels: int, width: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the variance, drawn at random and not learned."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, (channels * kernel**2) ** -0.5)
    return conv.requires_grad_(False)


def head(width: int) -> nn.Sequential:
    """Maps (B, width, h, w) -> logits (B, 1, h / 2, w / 2), of bounded slope."""
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width, width, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(width, 1, 3, padding=1)),
    )
