"""Lookup-free quantization: the signs of a latent are the bits of its code (Yu et al. 2023, arXiv
2310.05737, section 4.1).
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from taming.config.ranges import Positive, Range, Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through


class LFQ(Quantizer):
    """K = 2^dim codes, the corners of the cube [-1, 1]^dim.

    loss = commitment_weight |z - sg[e]|^2 + entropy_weight (mean entropy of the codes of one latent
    - entropy of the mean code), where a latent belongs to a code with the softmax of its negative
    squared distance / temperature: sure about each latent, even over all. Entropies in nats.

    Args:
        dim: D, bits of a code; the entropy runs over all 2^dim codes.
        commitment_weight: of the first term.
        entropy_weight: of the second term.
        temperature: of the softmax.
    """

    def __init__(
        self,
        dim: Annotated[int, Range(1, 18)],
        commitment_weight: Weight = 0.25,
        entropy_weight: Weight = 0.1,
        temperature: Positive = 0.1,
    ):
        super().__init__()
        self.num_codes, self.dim = (2**dim,), dim
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.temperature = temperature

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = rearrange(latent.float(), "b d h w -> b h w d")
            codes = ((z > 0) * self._places(z)).sum(dim=-1)
            e = self._vectors(codes)
            loss = self.commitment_weight * F.mse_loss(z, e)
            if self.entropy_weight:
                loss = loss + self.entropy_weight * self._entropies(z.flatten(0, 2))
            quantized = rearrange(straight_through(z, e), "b h w d -> b d h w")
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(self._vectors(codes[0]), "b h w d -> b d h w")

    def _places(self, like: Tensor) -> Tensor:
        return 2 ** torch.arange(self.dim, device=like.device)

    def _vectors(self, codes: Tensor) -> Tensor:
        return ((codes[..., None] // self._places(codes)) % 2) * 2.0 - 1.0

    def _entropies(self, z: Tensor) -> Tensor:
        """The bits of one latent are independent, so its entropy is a sum over bits; that of the
        mean needs every code.
        """
        up = 4 * z / self.temperature  # log odds of bit 1: (|z + 1|^2 - |z - 1|^2) / temperature
        p, log_p, log_q = up.sigmoid(), F.logsigmoid(up), F.logsigmoid(-up)
        each = -(p * log_p + (1 - p) * log_q).sum(dim=-1).mean()
        bits = (torch.arange(self.num_codes[0], device=z.device)[:, None] // self._places(z)) % 2
        mean = torch.zeros(self.num_codes[0], device=z.device)
        for part_p, part_q in zip(log_p.split(256), log_q.split(256)):
            mean = mean + (part_p @ bits.T.float() + part_q @ (1 - bits.T.float())).exp().sum(dim=0)
        mean = mean / len(z)
        # Where it underflows, the derivative of -m log m is infinite, and that times 0 is no number
        mean = mean.clamp(min=1e-30)
        return each - torch.special.entr(mean).sum()
