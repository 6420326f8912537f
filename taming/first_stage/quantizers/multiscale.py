"""Residual codes over scales: coarse grids first, each of what the coarser ones do not say yet
(Tian et al. 2024, arXiv 2404.02905, algorithms 1 and 2).
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.config.ranges import Length, Range, Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.ranges import NumCodes, Width

SHARE = 0.5  # of the convolution in what a scale adds; the rest is the scale itself


class MultiScaleQuantizer(Quantizer):
    """One level of codes for each scale, all of one codebook. A scale averages what is not said
    yet down to its grid; its codes' vectors, upsampled and convolved, are added to what is said.

    loss = mean over scales of commitment_weight |z - sg[s]|^2 + codebook_weight |sg[z] - s|^2, with
    s the sum so far.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, numbers in a vector.
        scales: sides of the grids, coarse to fine, for a latent as large as the last; others are in
            proportion.
        convolutions: shared by neighbouring scales.
        codebook_weight: of the term that moves codes.
        commitment_weight: of the term that moves latents.
    """

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        scales: Annotated[Sequence[Annotated[int, Range(1, 1024)]], Length(2, 64)],
        convolutions: Annotated[int, Range(1, 64)] = 4,
        codebook_weight: Weight = 1.0,
        commitment_weight: Weight = 0.25,
    ):
        super().__init__()
        if list(scales) != sorted(set(scales)):
            raise ValueError(f"scales {list(scales)} should grow, from the coarsest to the finest")
        self.scales, self.dim = tuple(scales), dim
        self.num_codes = (num_codes,) * len(scales)
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(dim, dim, 3, padding=1) for _ in range(convolutions)
        )

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        last = self.scales[-1]
        return tuple(
            (max(1, round(s * height / last)), max(1, round(s * width / last))) for s in self.scales
        )

    def codebook(self, level: int = 0) -> Tensor:
        """(K, D), float32."""
        return self.embedding.weight.float()

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = latent.float()
            grid = (z.shape[-2], z.shape[-1])
            rest, total, codes = z.detach(), torch.zeros_like(z), ()
            loss = z.new_zeros(())
            for level, size in enumerate(self.grids(*grid)):
                codes += (self._nearest(rest, size),)
                part = self._part(codes[-1], level, grid)
                rest, total = rest - part.detach(), total + part
                loss = loss + self.commitment_weight * F.mse_loss(z, total.detach())
                loss = loss + self.codebook_weight * F.mse_loss(total, z.detach())
            quantized = straight_through(z, total)
        return Quantized(quantized.to(latent.dtype), codes, loss / len(self.scales))

    def embed(self, codes: Codes) -> Tensor:
        grid = (codes[-1].shape[-2], codes[-1].shape[-1])
        total = torch.zeros((), device=codes[-1].device)
        for level, level_codes in enumerate(codes):
            total = total + self._part(level_codes, level, grid)
        return total

    def _nearest(self, rest: Tensor, size: tuple[int, int]) -> Tensor:
        """The codes (B, *size) of what is not said yet."""
        if rest.shape[-2:] != size:
            rest = F.interpolate(rest, size=size, mode="area")
        flat = rearrange(rest, "b d h w -> (b h w) d")
        return nearest(flat, self.codebook().detach()).view(len(rest), *size)

    def _part(self, codes: Tensor, level: int, grid: tuple[int, int]) -> Tensor:
        """What a scale adds (B, D, *grid)."""
        vectors = F.embedding(codes, self.codebook()).permute(0, 3, 1, 2)
        if vectors.shape[-2:] != grid:
            vectors = F.interpolate(vectors, size=grid, mode="bicubic")
        weight, bias = self._convolution(level)
        convolved = F.conv2d(vectors, weight, bias, padding=1)
        return (1 - SHARE) * vectors + SHARE * convolved

    def _convolution(self, level: int) -> tuple[Tensor, Tensor]:
        """Of the convolutions, spread evenly over the scales, the one nearest to a level's place;
        the outermost of four stand nearer to the ends, as published.
        """
        count = len(self.convolutions)
        edge = 1 / (3 if count == 4 else 2) / count
        places = torch.linspace(edge, 1 - edge, count, dtype=torch.float64)
        chosen = (places - level / (len(self.scales) - 1)).abs().argmin()
        layer = self.convolutions[int(chosen)]
        return layer.get_parameter("weight").float(), layer.get_parameter("bias").float()
