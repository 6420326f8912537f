"""A discriminator that sorts pixels by their labels, or as drawn (Schoenfeld et al. 2021, arXiv
2012.04781, section 3.1): the generator learns not only what is real, but what is there.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Range
from taming.errors import UserError
from taming.first_stage.discriminator import Discriminator, Form, group_norm
from taming.first_stage.ranges import Channels, Width
from taming.images import IGNORE


class SegmentingDiscriminator(Discriminator):
    """Images (B, 3, H, W) -> logits (B, 1, H, W), positive for real: how far the likeliest labels
    are ahead of `drawn`. A U-Net, see `classes`.

    Args:
        labels: of the label maps of the training pictures.
        in_channels: of the images.
        width: channels after the first convolution; each scale has twice as many, up to 8 times.
        layers: scales below the picture's own; sides are multiples of 2^layers.
    """

    def __init__(
        self,
        labels: Channels,
        in_channels: Channels = 3,
        width: Width = 32,
        layers: Annotated[int, Range(1, 8)] = 3,
    ):
        super().__init__()
        self.labels, self.layers = labels, layers
        widths = [width * min(2**n, 8) for n in range(layers + 1)]
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        pairs = list(zip(widths, widths[1:]))
        self.down = nn.ModuleList(layer(a, b, 4, 2) for a, b in pairs)
        self.up = nn.ModuleList(layer(a + b, a, 3, 1) for a, b in pairs)
        self.last = nn.Conv2d(width, labels + 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return realness(self.classes(image).float())

    def classes(self, image: Tensor) -> Tensor:
        """Logits (B, labels + 1, H, W) of each label, and last of `drawn`."""
        height, width = image.shape[-2:]
        if height % 2**self.layers or width % 2**self.layers:
            raise UserError(
                f"loss.params.discriminator.params.layers: {self.layers} need sides that are"
                f" multiples of {2**self.layers}, not {height}x{width}; take fewer layers"
            )
        maps = [F.leaky_relu(self.first(image), 0.2)]
        for down in self.down:
            maps.append(down(maps[-1]))
        x = maps.pop()
        for up in reversed(self.up):
            finer = maps.pop()
            x = up(torch.cat([finer, F.interpolate(x, scale_factor=2)], dim=1))
        return self.last(x)

    def generator_loss(self, output: Tensor, labels: Tensor | None = None) -> Tensor:
        """Cross-entropy of the labels that the pictures should show."""
        return self._sorted(self.classes(output), self._checked(labels))

    def losses(
        self, image: Tensor, output: Tensor, form: Form, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy of the labels in real pictures and of `drawn` in the generator's, whatever
        the form.
        """
        labels = self._checked(labels)
        real, fake = self.classes(image).float(), self.classes(output).float()
        drawn = torch.full_like(labels, self.labels or 0)
        loss = (self._sorted(real, labels) + F.cross_entropy(fake, drawn)) / 2
        return loss, realness(real), realness(fake)

    def _sorted(self, classes: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy () in float32, in which each label of the batch counts the same; pixels
        without a label don't count.
        """
        known = labels[labels != IGNORE]
        counts = torch.bincount(known, minlength=classes.shape[1]).float()
        present = (counts > 0).sum().clamp(min=1)
        weights = torch.where(counts > 0, len(known) / (counts * present), torch.zeros_like(counts))
        per_pixel = F.cross_entropy(
            classes.float(), labels, weights, ignore_index=IGNORE, reduction="sum"
        )
        return per_pixel / max(1, len(known))

    def _checked(self, labels: Tensor | None) -> Tensor:
        assert labels is not None and self.labels is not None
        labels = labels.long()
        highest = int(labels.masked_fill(labels == IGNORE, 0).max())
        if highest >= self.labels:
            raise UserError(
                f"loss.params.discriminator.params.labels: {self.labels}, but a picture has label"
                f" {highest}; give the number of labels of the data"
            )
        return labels


def realness(classes: Tensor) -> Tensor:
    """Logits (B, labels + 1, H, W) -> of all labels together against `drawn`, (B, 1, H, W)."""
    return classes[:, :-1].logsumexp(dim=1, keepdim=True) - classes[:, -1:]


def layer(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride=stride, padding=1, bias=False),
        group_norm(width),
        nn.LeakyReLU(0.2),
    )
