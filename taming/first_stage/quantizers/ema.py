"""A codebook that follows the latents by exponential moving averages instead of a gradient (van den
Oord et al. 2017, arXiv 1711.00937, appendix A.1).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.first_stage.interface import Codes, Quantized, Quantizer, check_count
from taming.first_stage.quantizers.gradient import straight_through
from taming.first_stage.quantizers.nearest import drawn_latents, nearest


class EMAQuantizer(Quantizer):
    """Code k is sums[k] / counts[k], moving averages of the latents that chose it and of their
    number; loss = commitment_weight |z - sg[e]|^2.

    It starts with counts of 1 and the code as sum, so that codes not chosen stay where they are. (A
    Laplace-smoothed start from 0, as in much public code, throws them far out in one step.)
    restart: codes whose count fell below this share of an even use are put on latents of the batch,
    their averages with them; 0 never does. from_data: codes begin as latents of the first training
    batch.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        commitment_weight: float = 0.25,
        decay: float = 0.99,
        restart: float = 0.0,
        from_data: bool = False,
    ):
        super().__init__()
        if not 0 <= decay < 1 or not 0 <= restart < 1:
            raise ValueError(f"decay {decay} and restart {restart} should be from 0 to below 1")
        check_count(num_codes)
        self.num_codes, self.dim = (num_codes,), dim
        self.commitment_weight, self.decay, self.restart = commitment_weight, decay, restart
        self.embedding = nn.Embedding(num_codes, dim).requires_grad_(False)
        self.register_buffer("started", torch.tensor(False) if from_data else None)
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", self.embedding.weight.detach().clone())

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = rearrange(latent.float(), "b d h w -> b h w d")
            if self.training and self.started is not None and not self.started:
                self._start(z.detach().flatten(0, 2))
            codes = nearest(z.detach().flatten(0, 2), self.embedding.weight).view(z.shape[:-1])
            e = F.embedding(codes, self.embedding.weight)
            loss = self.commitment_weight * F.mse_loss(z, e)
            if self.training:
                self._follow(z.detach().flatten(0, 2), codes.flatten())
        return Quantized(rearrange(straight_through(z, e), "b h w d -> b d h w"), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(F.embedding(codes[0], self.embedding.weight), "b h w d -> b d h w")

    @torch.no_grad()
    def _follow(self, flat: Tensor, codes: Tensor) -> None:
        """One step of the averages; the same in all processes, as if they were one."""
        counts = torch.bincount(codes, minlength=self.num_codes[0]).to(flat)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, flat)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        chosen = counts > 0
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        fresh = self.sums / self.counts.clamp(min=1e-12)[:, None]
        self.embedding.weight.copy_(torch.where(chosen[:, None], fresh, self.embedding.weight))
        if self.restart:
            self._restart_dead(flat)

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        put = drawn_latents(flat, len(self.counts))
        self.embedding.weight.copy_(put)
        self.sums.copy_(put)
        self.started.fill_(True)

    def _restart_dead(self, flat: Tensor) -> None:
        dead = (self.counts < self.restart * self.counts.mean())[:, None]
        if not dead.any():
            return
        put = drawn_latents(flat, len(self.counts))
        self.embedding.weight.copy_(torch.where(dead, put, self.embedding.weight))
        self.sums.copy_(torch.where(dead, put, self.sums))
        self.counts.copy_(torch.where(dead[:, 0], 1.0, self.counts))
