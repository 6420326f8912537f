"""Finite scalar quantization: each number of a low-dimensional latent is rounded to one of a few
levels (Mentzer et al. 2023, arXiv 2309.15505).
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from einops import rearrange
from torch import Tensor

from taming.config.ranges import Length, Range
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through
from taming.first_stage.ranges import NumCodes

LARGEST = 2**24  # codes: usage and perplexity count each of them


class FSQ(Quantizer):
    """K = product of `levels` codes, D = their number; no codebook to learn, and no loss. Latents
    out lie in [-1, 1].

    Args:
        levels: of each number of the latent.
        num_codes: None, or the product of `levels` once more, as a check.
    """

    levels: Tensor
    places: Tensor

    def __init__(
        self,
        levels: Annotated[Sequence[Annotated[int, Range(2, 2**16)]], Length(1, 24)],
        num_codes: NumCodes | None = None,
    ):
        super().__init__()
        product = math.prod(levels)
        if num_codes is not None and num_codes != product:
            raise ValueError(f"levels {list(levels)} multiply to {product} codes, not {num_codes}")
        if product > LARGEST:
            raise ValueError(f"levels {list(levels)} multiply to {product} codes, over {LARGEST}")
        self.num_codes, self.dim = (product,), len(levels)
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels))
        self.register_buffer("places", torch.tensor(places))

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = self._bounded(rearrange(latent.float(), "b d h w -> b h w d"))
            digits = z.detach().round() + self.levels // 2
            codes = (digits.long() * self.places).sum(dim=-1)
            half = (self.levels // 2).float()
            quantized = straight_through(z / half, self._vectors(codes))
            quantized = rearrange(quantized, "b h w d -> b d h w").to(latent.dtype)
        return Quantized(quantized, (codes,), latent.new_zeros(()))

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(self._vectors(codes[0]), "b h w d -> b d h w")

    def _vectors(self, codes: Tensor) -> Tensor:
        half = self.levels // 2
        return ((codes[..., None] // self.places) % self.levels - half) / half.float()

    def _bounded(self, z: Tensor) -> Tensor:
        """Each number between its lowest and its highest level, so that rounding reaches every
        level and nothing else.
        """
        half = (self.levels - 1) * (1 + 1e-3) / 2
        # An even number of levels lies around a half
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return (z + (offset / half).atanh()).tanh() * half - offset
