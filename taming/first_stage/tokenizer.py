"""What tokenizers have in common: encoder, quantizer, decoder, and checks at their doors."""

import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import (
    Codes,
    FirstStage,
    Quantized,
    Quantizer,
    Reconstruction,
    evaluating,
)
from taming.first_stage.likelihood import Likelihood


class Tokenizer(FirstStage):
    """Subclasses make `latent`, and `decoded` out of latents. likelihood: what the decoder's
    numbers mean; without, they are the picture.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        stride: int,
        in_channels: int,
        key: str,
        likelihood: Likelihood | None = None,
    ):
        super().__init__()
        self.quantizer = quantizer
        self.num_codes = quantizer.num_codes
        self.stride, self.in_channels, self.key = stride, in_channels, key
        self.likelihood = likelihood

    def latent(self, image: Tensor) -> Tensor:
        """(B, D, h, w) before it is quantized: what latent diffusion works on."""
        raise NotImplementedError(f"{type(self).__name__} has no latent")

    def decoded(self, latent: Tensor) -> Tensor:
        """What the decoder makes of a latent (B, D, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing")

    def quantize(self, image: Tensor) -> Quantized:
        return self.quantizer(self.latent(image))

    def embed(self, codes: Codes) -> Tensor:
        """The latent that codes stand for."""
        return self.quantizer.embed(codes)

    def forward(self, image: Tensor) -> Reconstruction:
        quantized = self.quantize(image)
        return reconstruction(
            self.decoded(quantized.latent), quantized, self.likelihood, self._picture
        )

    @torch.no_grad()
    def encode(self, image: Tensor) -> Codes:
        with evaluating(self):
            return self.quantize(image).codes

    def decode(self, codes: Codes) -> Tensor:
        for grid, known in zip(codes, self.num_codes, strict=True):
            if grid.numel() and not 0 <= int(grid.min()) <= int(grid.max()) < known:
                told = (
                    f"codes span {int(grid.min())} to {int(grid.max())} but this first stage knows"
                    f" 0 to {known - 1}"
                )
                raise UserError(f"{told}; were they made by another one?")
        return self._shown(self.decoded(self.embed(codes)))

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        check_divides(height, width, self.multiple)
        return ((height // self.stride, width // self.stride),) * len(self.num_codes)

    def decode_latent(self, latent: Tensor) -> Tensor:
        """The picture (B, C, H, W) of a latent (B, D, h, w), which is quantized first."""
        with evaluating(self):
            return self._shown(self.decoded(self.quantizer(latent).latent))

    def _input(self, image: Tensor) -> Tensor:
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise UserError(
                f"an image batch of shape {tuple(image.shape)} was given, (B, {self.in_channels},"
                " H, W) in [-1, 1] is wanted"
            )
        self.grids(*image.shape[-2:])
        return image

    def _shown(self, decoded: Tensor) -> Tensor:
        return (
            decoded
            if self.likelihood is None
            else self.likelihood.picture(self.likelihood(decoded))
        )

    def _picture(self, output: Tensor) -> Tensor:
        return output


def reconstruction(
    decoded: Tensor, quantized: Quantized, likelihood: Likelihood | None, picture
) -> Reconstruction:
    if likelihood is None:
        return Reconstruction(picture(decoded), decoded, quantized.codes, quantized.loss)
    parameters = likelihood(decoded)
    return Reconstruction(
        likelihood.picture(parameters), parameters, quantized.codes, quantized.loss, likelihood
    )


def check_divides(height: int, width: int, multiple: int) -> None:
    """Raises UserError for sides that the downsampling does not divide, or that are smaller than it."""
    if min(height, width) < multiple:
        raise UserError(
            f"size {height}x{width} is smaller than the downsampling factor {multiple}; take at"
            f" least {multiple}x{multiple}"
        )
    if height % multiple or width % multiple:
        raise UserError(
            f"size {height}x{width} is not divisible by the downsampling factor {multiple}; take"
            f" {height // multiple * multiple}x{width // multiple * multiple}"
        )
