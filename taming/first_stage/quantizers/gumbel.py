"""The Gumbel-softmax relaxation of a categorical latent (Jang et al. 2017, arXiv 1611.01144; for
picture tokens: Ramesh et al. 2021, arXiv 2102.12092).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.first_stage.interface import Codes, Quantized, Quantizer, check_count


class GumbelQuantizer(Quantizer):
    """Latents become logits over the codes by a 1x1 convolution. In training a softmax of logits
    and Gumbel noise, over the temperature, mixes the codes; in evaluation, and in `encode`, the
    most probable code is taken, without noise.

    loss = kl_weight KL(q || uniform), summed over the codes, mean over positions. The temperature
    goes along half a cosine from `temperature[0]` to `temperature[1]` within `temperature_batches`;
    the KL weight likewise from 0 to `kl_weight` within `kl_batches`, 0 for at once. hard: the
    forward pass takes one code, the gradient is the mixture's. code_dim: of the vectors that codes
    stand for, D if not said.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        kl_weight: float = 5e-4,
        temperature: tuple[float, float] = (1.0, 1 / 16),
        temperature_batches: int = 150_000,
        hard: bool = True,
        kl_batches: int = 0,
        code_dim: int | None = None,
    ):
        super().__init__()
        check_count(num_codes)
        if min(temperature) <= 0:
            raise ValueError(f"temperature {list(temperature)} should be above 0 at both ends")
        self._code_dim = code_dim or dim
        self.num_codes, self.dim = (num_codes,), dim
        self.last_kl_weight, self.kl_batches, self.hard = kl_weight, kl_batches, hard
        self.kl_weight = 0.0 if kl_batches else kl_weight
        self.temperatures, self.temperature_batches = tuple(temperature), temperature_batches
        self.temperature = self.temperatures[0]
        self.proj = nn.Conv2d(dim, num_codes, 1)
        self.embedding = nn.Embedding(num_codes, self._code_dim)

    @property
    def code_dim(self) -> int:
        return self._code_dim

    def set_step(self, batch: int) -> None:
        self.temperature = half_cosine(*self.temperatures, batch, self.temperature_batches)
        self.kl_weight = half_cosine(0.0, self.last_kl_weight, batch, self.kl_batches)

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            logits = self.proj(latent.float())
            codes = logits.argmax(dim=1)
            q = logits.softmax(dim=1)
            loss = self.kl_weight * (q * (q * self.num_codes[0] + 1e-10).log()).sum(dim=1).mean()
            if not self.training:
                return Quantized(self.embed((codes,)), (codes,), loss)
            mixture = F.gumbel_softmax(logits, tau=self.temperature, hard=self.hard, dim=1)
            mixed = torch.einsum("bkhw,kd->bdhw", mixture, self.embedding.weight.float())
        return Quantized(mixed, (mixture.argmax(dim=1),), loss)

    def embed(self, codes: Codes) -> Tensor:
        return F.embedding(codes[0], self.embedding.weight).permute(0, 3, 1, 2)


def half_cosine(first: float, last: float, batch: int, batches: int) -> float:
    """From first to last within so many batches, and there it stays."""
    share = min(1.0, batch / batches) if batches else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
