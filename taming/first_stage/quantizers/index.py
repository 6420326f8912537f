"""Index backpropagation: every code gets a gradient, because the choice of one is a softmax over
all (Shi et al. 2024, arXiv 2412.02692, section 3.2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Positive, Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.ranges import NumCodes, Width


class IBQ(Quantizer):
    """The code of a latent z is the row e_k of the largest product z.e_k, not the nearest; the
    gradient is that of the mixture by softmax(z.e).

    loss = weight * (|z - sg[e]|^2 + commitment |sg[z] - e|^2 + |z - e|^2) + entropy_weight (mean
    entropy of the codes of one latent - entropy of the mean code); in the third term e is the
    straight-through one, so that its gradient reaches all codes. Entropies in nats, of the softmax
    of products / temperature.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, numbers in a vector.
        codebook_weight: of |sg[z] - e|^2; beta in the paper.
        commitment_weight: of the other two distances.
        entropy_weight: of the entropies; 0 leaves them out.
        temperature: of the entropies' softmax.
    """

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        codebook_weight: Weight = 0.25,
        commitment_weight: Weight = 1.0,
        entropy_weight: Weight = 0.05,
        temperature: Positive = 0.01,
    ):
        super().__init__()
        self.num_codes, self.dim = (num_codes,), dim
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.entropy_weight, self.temperature = entropy_weight, temperature
        self.embedding = nn.Embedding(num_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)

    def codebook(self, level: int = 0) -> Tensor:
        """(K, D), float32."""
        return self.embedding.weight.float()

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z, codebook = latent.float(), self.codebook()
            logits = torch.einsum("bdhw,kd->bkhw", z, codebook)
            codes = logits.argmax(dim=1)
            e = F.embedding(codes, codebook).permute(0, 3, 1, 2)
            quantized = e
            if torch.is_grad_enabled() and logits.requires_grad:
                # The value of e, and the gradient of onehot + p - sg[p] times the codebook
                p = logits.softmax(dim=1)
                mixture = torch.einsum("bkhw,kd->bdhw", p - p.detach(), codebook.detach())
                quantized = e + mixture
            loss = self.codebook_weight * F.mse_loss(e, z.detach())
            loss = loss + self.commitment_weight * (
                F.mse_loss(z, e.detach()) + F.mse_loss(quantized, z)
            )
            if self.training and self.entropy_weight:
                loss = loss + self.entropy_weight * self._entropies(logits)
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return F.embedding(codes[0], self.embedding.weight).permute(0, 3, 1, 2)

    def _entropies(self, logits: Tensor) -> Tensor:
        log_p = (logits / self.temperature).log_softmax(dim=1)
        p = log_p.exp()
        each = -(p * log_p).sum(dim=1).mean()
        return each - torch.special.entr(p.mean(dim=(0, 2, 3)).clamp(min=1e-30)).sum()
