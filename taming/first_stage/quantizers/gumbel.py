"""The Gumbel-softmax relaxation of a categorical latent (Jang et al. 2017, arXiv 1611.01144; for picture tokens: Ramesh et al. 2021, arXiv 2102.12092)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.first_stage.interface import Codes, Quantized, Quantizer


class GumbelQuantizer(Quantizer):
    """Latents become logits over the codes by a 1x1 convolution. In training a softmax of logits and Gumbel noise, over the temperature, mixes the codes; in
    evaluation, and in `encode`, the most probable code is taken, without noise.

    loss = kl_weight KL(q || uniform), summed over the codes, mean over positions. The temperature falls along half a cosine from `temperature[0]` to
    `temperature[1]` within `temperature_batches`. hard: the forward pass takes one code, the gradient is the mixture's.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        kl_weight: float = 5e-4,
        temperature: tuple[float, float] = (1.0, 1 / 16),
        temperature_batches: int = 150_000,
        hard: bool = True,
    ):
        super().__init__()
        self.num_codes, self.dim = (num_codes,), dim
        self.kl_weight, self.hard = kl_weight, hard
        self.temperatures, self.temperature_batches = tuple(temperature), temperature_batches
        self.temperature = self.temperatures[0]
        self.proj = nn.Conv2d(dim, num_codes, 1)
        self.embedding = nn.Embedding(num_codes, dim)

    def set_step(self, batch: int) -> None:
        first, last = self.temperatures
        share = min(1.0, batch / self.temperature_batches)
        self.temperature = last + (first - last) * (1 + math.cos(math.pi * share)) / 2

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
