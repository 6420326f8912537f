"""The seam of discriminators, and PatchGAN: is this patch of a picture real? (Isola et al. 2017,
arXiv 1611.07004, section 3.2.2). Its parameter names as published: `main.{n}`.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Range
from taming.errors import UserError
from taming.first_stage.ranges import Channels, Width

Form = Literal["hinge", "vanilla"]


class Discriminator(nn.Module):
    """The seam: images (B, C, H, W) -> logits of any shape, positive for real. What it and its
    opponent are trained for follows from the logits, unless it says otherwise itself.
    """

    labels: int | None = None  # of the label maps that it sorts pixels by; None: it reads none

    def forward(self, image: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} judges nothing")

    def generator_loss(self, output: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the generator lowers, () in float32.

        Args:
            output: its pictures.
            labels: int64 (B, H, W) of the pictures that these should be like.
        """
        return -self(output).float().mean()

    def losses(
        self, image: Tensor, output: Tensor, form: Form, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the discriminator lowers, (), and the logits of both, in float32.

        Args:
            image: real pictures.
            output: the generator's, without gradient.
            form: of the loss.
            labels: int64 (B, H, W) of the real pictures.
        """
        real, fake = self(image).float(), self(output).float()
        return FORMS[form](real, fake), real, fake


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def vanilla(real: Tensor, fake: Tensor) -> Tensor:
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


FORMS = {"hinge": hinge, "vanilla": vanilla}


class PatchDiscriminator(Discriminator):
    """Images (B, in_channels, H, W) -> logits (B, 1, about H / 2^layers, about W / 2^layers),
    positive for real.

    Args:
        in_channels: of the images.
        width: channels after the first convolution; each layer has twice as many, up to 8 times.
        layers: convolutions between the first and the last, each but one halves the picture.
        normalization: batch; act (see ActNorm); or group, whose answer to a picture does not
            depend on the others of its batch.
    """

    def __init__(
        self,
        in_channels: Channels = 3,
        width: Width = 64,
        layers: Annotated[int, Range(1, 8)] = 3,
        normalization: Literal["batch", "act", "group"] = "batch",
    ):
        super().__init__()
        self.in_channels, self.layers = in_channels, layers
        make_norm = NORMALIZATIONS[normalization]
        widths = [width * min(2**n, 8) for n in range(layers + 1)]
        main = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            before, after = widths[n - 1 : n + 1]
            stride = 2 if n < layers else 1
            main += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=make_norm is ActNorm),
                make_norm(after),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*main, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        smallest = 3 * 2**self.layers
        if min(image.shape[-2:]) < smallest:
            height, width = image.shape[-2:]
            raise UserError(
                f"loss.params.discriminator.params.layers: {self.layers} need pictures of at least"
                f" {smallest}x{smallest}, not {height}x{width}; take fewer layers, or larger crops"
            )
        if image.shape[1] != self.in_channels:
            raise UserError(
                f"loss.params.discriminator.params.in_channels: {self.in_channels}, but the"
                f" pictures have {image.shape[1]}; make them equal"
            )
        return self.main(image)


class ActNorm(nn.Module):
    """scale (x + loc) per channel, which the first batch in training sets to mean 0 and deviation
    1, and which is then learned (Kingma and Dhariwal 2018, arXiv 1807.03039, section 3.1).
    """

    initialized: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialized:
            self._start(x)
        return self.scale * (x + self.loc)

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        deviation = x.transpose(0, 1).flatten(1).std(dim=1).view_as(self.scale)
        self.loc.copy_(-x.mean(dim=(0, 2, 3), keepdim=True))
        self.scale.copy_(1 / (deviation + 1e-6))
        self.initialized.fill_(1)


def group_norm(channels: int) -> nn.GroupNorm:
    """At least four channels a group, see normalization.py."""
    return nn.GroupNorm(math.gcd(8, max(1, channels // 4)), channels)


NORMALIZATIONS = {"batch": nn.BatchNorm2d, "act": ActNorm, "group": group_norm}


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
