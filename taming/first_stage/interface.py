"""The seam between pictures and codes: what every quantizer and every first stage offers.

Letters: B batch; C, H, W image; D latent width; h, w code grid; K codes in the codebook.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
    """Latents (B, D, h, w) -> the nearest of finitely many; searches in float32 whatever autocast
    says.
    """

    num_codes: tuple[int, ...]
    dim: int

    @property
    def code_dim(self) -> int:
        """Of the latents that come out; D, but for relaxations that read logits."""
        return self.dim

    def forward(self, latent: Tensor) -> Quantized:
        raise NotImplementedError(f"{type(self).__name__} does not quantize")

    def embed(self, codes: Codes) -> Tensor:
        """The latents (B, D, h, w) that codes stand for."""
        raise NotImplementedError(f"{type(self).__name__} does not embed")

    def set_step(self, batch: int) -> None:
        """Before each training batch, for what follows a schedule; most have none."""


def check_count(num_codes: int) -> None:
    """Raises ValueError for a codebook that can't say anything."""
    if num_codes < 2:
        raise ValueError(f"num_codes {num_codes} should be at least 2: one code says nothing")


@dataclass
class Reconstruction:
    image: Tensor  # (B, C, H, W), what a person would look at
    # What the loss reads: logits of a mask, parameters of a likelihood, else the image
    output: Tensor
    codes: Codes
    quantizer_loss: Tensor  # ()
    likelihood: nn.Module | None = None  # what reads `output`, where it holds the parameters of one


class Autoencoder(nn.Module):
    """Images -> a latent -> images. Images are float (B, C, H, W) in [-1, 1]."""

    stride: int  # pixels per latent position, H / h of the finest level
    key: str  # which entry of a batch it reads
    num_codes: tuple[int, ...] = ()  # per level

    @property
    def multiple(self) -> int:
        """Sides of an image are multiples of this: the stride of the coarsest level."""
        return self.stride

    def forward(self, image: Tensor) -> Reconstruction:
        raise NotImplementedError(f"{type(self).__name__} does not reconstruct")

    def reconstruct(self, image: Tensor) -> Tensor:
        """What `image` becomes, without anything random."""
        raise NotImplementedError(f"{type(self).__name__} does not reconstruct")

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The grid of each level for an image of this size."""
        raise NotImplementedError(f"{type(self).__name__} has no grids")

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that the adaptive weight of the adversarial loss compares gradients at."""
        raise NotImplementedError(f"{type(self).__name__} has no last layer")


class FirstStage(Autoencoder):
    """A tokenizer of images; one of masks takes int64 labels (B, H, W) and one-hots inside."""

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.decode(self.encode(image))

    def encode(self, image: Tensor) -> Codes:
        """No gradient, deterministic, dropout off."""
        raise NotImplementedError(f"{type(self).__name__} does not encode")

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, H, W)"""
        raise NotImplementedError(f"{type(self).__name__} does not decode")


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column of an image (B, C, H, W) or of labels (B, H, W) until both
    sides are divisible.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height + -height % multiple, device=image.device).clamp(max=height - 1)
    columns = torch.arange(width + -width % multiple, device=image.device).clamp(max=width - 1)
    return image[..., rows, :][..., columns]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every submodule has the mode of its own again."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
