"""SimVQ: the codebook is a fixed random one under a learned linear map, so that every step moves
all codes (Zhu et al. 2024, arXiv 2411.02038).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.config.ranges import Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.ranges import NumCodes, Width


class SimVQ(Quantizer):
    """Loss as VectorQuantizer's; only `map` learns.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, numbers in a vector.
        codebook_weight: of the term that moves codes.
        commitment_weight: of the term that moves latents.
    """

    basis: Tensor

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        codebook_weight: Weight = 1.0,
        commitment_weight: Weight = 0.25,
    ):
        super().__init__()
        self.num_codes, self.dim = (num_codes,), dim
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.register_buffer("basis", torch.randn(num_codes, dim) * dim**-0.5)
        self.map = nn.Linear(dim, dim)

    def codebook(self, level: int = 0) -> Tensor:
        """(K, D), float32."""
        with torch.autocast(self.basis.device.type, enabled=False):
            return F.linear(self.basis.float(), self.map.weight.float(), self.map.bias.float())

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = rearrange(latent.float(), "b d h w -> b h w d")
            codebook = self.codebook()
            codes = nearest(z.detach().flatten(0, 2), codebook.detach()).view(z.shape[:-1])
            e = F.embedding(codes, codebook)
            loss = self.codebook_weight * F.mse_loss(
                e, z.detach()
            ) + self.commitment_weight * F.mse_loss(z, e.detach())
            quantized = rearrange(straight_through(z, e), "b h w d -> b d h w")
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(F.embedding(codes[0], self.codebook()), "b h w d -> b d h w")
