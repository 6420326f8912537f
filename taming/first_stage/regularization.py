"""What keeps a discriminator from winning on few pictures: LeCAM (Tseng et al. 2021, arXiv
2104.03310), the gradient penalty R1 (Mescheder et al. 2018, arXiv 1801.04406), and augmentation
that the gradient passes (Zhao et al. 2020, arXiv 2006.10738).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LECAM_DECAY = 0.99
Augmentation = Literal["colour", "translation", "cutout"]


class LeCAM(nn.Module):
    """Penalty () on logits of real pictures far above the running mean of those of fakes, and the
    other way round: E[(D(x) - a_fake)^2] + E[(D(x') - a_real)^2] (eq. 3).
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.training:
            self.real_mean.lerp_(real.detach().mean(), 1 - LECAM_DECAY)
            self.fake_mean.lerp_(fake.detach().mean(), 1 - LECAM_DECAY)
        return (real - self.fake_mean).square().mean() + (fake - self.real_mean).square().mean()


def gradient_penalty(discriminator: nn.Module, image: Tensor) -> Tensor:
    """R1: E |grad D(x)|^2 / 2 on real pictures (), in float32."""
    with torch.autocast(image.device.type, enabled=False):
        leaf = image.detach().float().requires_grad_()
        logits = discriminator(leaf)
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def augmented(image: Tensor, kinds: Sequence[Augmentation]) -> Tensor:
    """Images (B, C, H, W) changed at random, each in its own way; differentiable."""
    for kind in kinds:
        image = AUGMENTATIONS[kind](image)
    return image


def jitter(image: Tensor) -> Tensor:
    """Brightness, saturation and contrast."""
    brightness, saturation, contrast = torch.rand(3, len(image), 1, 1, 1, device=image.device)
    image = image + brightness - 0.5
    grey = image.mean(dim=1, keepdim=True)
    image = grey + (image - grey) * 2 * saturation
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (image - mean) * (contrast + 0.5)


def translated(image: Tensor) -> Tensor:
    """Moved by up to an eighth of each side; zeros come in."""
    height, width = image.shape[-2:]
    rows, columns = height // 8, width // 8
    padded = F.pad(image, (columns, columns, rows, rows))
    top = torch.randint(0, 2 * rows + 1, (len(image),)).tolist()
    left = torch.randint(0, 2 * columns + 1, (len(image),)).tolist()
    parts = zip(padded, top, left)
    return torch.stack([part[:, y : y + height, x : x + width] for part, y, x in parts])


def cut_out(image: Tensor) -> Tensor:
    """A quarter of the picture is zero: a rectangle of half its sides, at its rim perhaps less."""
    height, width = image.shape[-2:]
    y = torch.randint(0, height, (len(image), 1, 1, 1), device=image.device)
    x = torch.randint(0, width, (len(image), 1, 1, 1), device=image.device)
    rows = torch.arange(height, device=image.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=image.device).view(1, 1, 1, -1)
    inside = ((rows - y).abs() <= height // 4) & ((columns - x).abs() <= width // 4)
    return image * ~inside


AUGMENTATIONS = {"colour": jitter, "translation": translated, "cutout": cut_out}
