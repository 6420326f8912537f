"""PatchGAN: is this patch of a picture real? (Isola et al. 2017, arXiv 1611.07004, section 3.2.2).
Parameter names as published: `main.{n}`.
"""

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """(B, in_channels, H, W) -> logits (B, 1, about H / 2^layers, about W / 2^layers), positive for
    real. normalization: batch, or act (see ActNorm).
    """

    def __init__(
        self, in_channels: int = 3, width: int = 64, layers: int = 3, normalization: str = "batch"
    ):
        super().__init__()
        norm = {"batch": nn.BatchNorm2d, "act": ActNorm}[normalization]
        widths = [width * min(2**n, 8) for n in range(layers + 1)]
        main = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            main += [
                nn.Conv2d(
                    widths[n - 1], widths[n], 4, stride=stride, padding=1, bias=norm is ActNorm
                ),
                norm(widths[n]),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*main, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        return self.main(image)


class ActNorm(nn.Module):
    """scale (x + loc) per channel, which the first batch in training sets to mean 0 and deviation
    1, and which is then learned (Kingma and Dhariwal 2018, arXiv 1807.03039, section 3.1).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialized:
            with torch.no_grad():
                self.loc.copy_(-x.mean(dim=(0, 2, 3), keepdim=True))
                self.scale.copy_(
                    1 / (x.transpose(0, 1).flatten(1).std(dim=1).view_as(self.scale) + 1e-6)
                )
                self.initialized.fill_(1)
        return self.scale * (x + self.loc)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
