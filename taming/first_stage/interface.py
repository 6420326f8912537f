"""The seam between pictures and codes: what every quantizer and every first stage offers.

Letters: B batch; C, H, W image; D latent width; h, w code grid; K codes in the codebook.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

Codes = tuple[Tensor, ...]
"""One int64 (B, h, w) grid per level, coarse to fine; usually one."""


@dataclass
class Quantized:
    latent: Tensor  # (B, D, h, w); the gradient goes straight through to the encoder
    codes: Codes  # each in [0, K)
    loss: Tensor  # ()


class Quantizer(nn.Module):
    """Latents (B, D, h, w) -> the nearest of finitely many; searches in float32 whatever autocast says."""

    num_codes: tuple[int, ...]
    dim: int

    def forward(self, latent: Tensor) -> Quantized:
        raise NotImplementedError(f"{type(self).__name__} does not quantize")

    def embed(self, codes: Codes) -> Tensor:
        """The latents (B, D, h, w) that codes stand for."""
        raise NotImplementedError(f"{type(self).__name__} does not embed")

    def set_step(self, batch: int) -> None:
        """Before each training batch, for what follows a schedule; most have none."""


@dataclass
class Reconstruction:
    image: Tensor  # (B, C, H, W), what a person would look at
    output: Tensor  # what the loss reads: logits of a mask, parameters of a likelihood, else the image
    codes: Codes
    quantizer_loss: Tensor  # ()


class FirstStage(nn.Module):
    """A tokenizer of images. Images are float (B, C, H, W) in [-1, 1]; a mask tokenizer takes int64 labels (B, H, W) and one-hots inside."""

    num_codes: tuple[int, ...]  # per level
    stride: int  # pixels per code, H / h of the finest level
    key: str  # which entry of a batch it reads

    def forward(self, image: Tensor) -> Reconstruction:
        raise NotImplementedError(f"{type(self).__name__} does not reconstruct")

    def encode(self, image: Tensor) -> Codes:
        """No gradient, deterministic, dropout off."""
        raise NotImplementedError(f"{type(self).__name__} does not encode")

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, H, W)"""
        raise NotImplementedError(f"{type(self).__name__} does not decode")

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The code grid of each level for an image of this size."""
        raise NotImplementedError(f"{type(self).__name__} has no grids")

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that the adaptive weight of the adversarial loss compares gradients at."""
        raise NotImplementedError(f"{type(self).__name__} has no last layer")


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column of an image (B, C, H, W) or of labels (B, H, W) until both sides are divisible."""
    height, width = image.shape[-2:]
    rows = torch.arange(height + -height % multiple, device=image.device).clamp(max=height - 1)
    columns = torch.arange(width + -width % multiple, device=image.device).clamp(max=width - 1)
    return image[..., rows, :][..., columns]
