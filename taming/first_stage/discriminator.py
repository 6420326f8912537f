"""PatchGAN: is this patch of a picture real? (Isola et al. 2017, arXiv 1611.07004, section 3.2.2). Parameter names as published: `main.{n}`."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """(B, in_channels, H, W) -> logits (B, 1, about H / 2^layers, about W / 2^layers), positive for real."""

    def __init__(self, in_channels: int = 3, width: int = 64, layers: int = 3):
        super().__init__()
        widths = [width * min(2**n, 8) for n in range(layers + 1)]
        main = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            main += [nn.Conv2d(widths[n - 1], widths[n], 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(widths[n]), nn.LeakyReLU(0.2)]
        self.main = nn.Sequential(*main, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        return self.main(image)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
