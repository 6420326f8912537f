"""The Gumbel-softmax relaxation of a categorical latent (Jang et al. 2017, arXiv 1611.01144; for
picture tokens: Ramesh et al. 2021, arXiv 2102.12092).
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Length, Positive, Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.ranges import Batches, NumCodes, Width


class GumbelQuantizer(Quantizer):
    """Latents become logits over the codes by a 1x1 convolution. In training a softmax of logits
    and Gumbel noise, over the temperature, mixes the codes; in evaluation, and in `encode`, the
    most probable code is taken, without noise, and the gradient is the softmax's.

    loss = weight * KL(q || uniform), summed over the codes, mean over positions.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, width of the latents that come in.
        kl_weight: of the loss, reached after `kl_batches`.
        temperature: at the start, and after `temperature_batches`; half a cosine in between.
        temperature_batches: batches of training.
        hard: the forward pass takes one code, the gradient is the mixture's.
        kl_batches: over so many batches the weight grows along half a cosine; 0 for at once.
        code_dim: of the vectors that codes stand for; by default D.
    """

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        kl_weight: Weight = 5e-4,
        temperature: Annotated[Sequence[Positive], Length(2, 2)] = (1.0, 1 / 16),
        temperature_batches: Batches = 150_000,
        hard: bool = True,
        kl_batches: Batches = 0,
        code_dim: Width | None = None,
    ):
        super().__init__()
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

    def set_step(self, batch: int, micro_batch: int = 0, micro_batches: int = 1) -> None:
        super().set_step(batch, micro_batch, micro_batches)
        first, last = self.temperatures
        self.temperature = half_cosine(first, last, batch, self.temperature_batches)
        self.kl_weight = half_cosine(0.0, self.last_kl_weight, batch, self.kl_batches)

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            weight, bias = (self.proj.get_parameter(name).float() for name in ("weight", "bias"))
            logits = F.conv2d(latent.float(), weight, bias)
            codes, q = logits.argmax(dim=1), logits.softmax(dim=1)
            loss = self.kl_weight * (q * (q * self.num_codes[0] + 1e-10).log()).sum(dim=1).mean()
            if self.training:
                q = F.gumbel_softmax(logits, tau=self.temperature, hard=self.hard, dim=1)
                codes, quantized = q.argmax(dim=1), self._mixed(q, self.embedding.weight)
            else:
                quantized = self.embed((codes,))
                if torch.is_grad_enabled() and logits.requires_grad:
                    mixed = self._mixed(q, self.embedding.weight.detach())
                    quantized = quantized + (mixed - mixed.detach())
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def codebook(self, level: int = 0) -> Tensor:
        """(K, code_dim), float32."""
        return self.embedding.weight.float()

    def embed(self, codes: Codes) -> Tensor:
        return F.embedding(codes[0], self.embedding.weight).permute(0, 3, 1, 2)

    def _mixed(self, shares: Tensor, codebook: Tensor) -> Tensor:
        return torch.einsum("bkhw,kd->bdhw", shares, codebook.float())


def half_cosine(first: float, last: float, batch: int, batches: int) -> float:
    """From first to last within so many batches, and there it stays."""
    share = min(1.0, batch / batches) if batches else 1.0
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
