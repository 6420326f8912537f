"""A codebook that follows the latents by exponential moving averages instead of a gradient (van den
Oord et al. 2017, arXiv 1711.00937, appendix A.1).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.config.ranges import Decay, Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through
from taming.first_stage.quantizers.nearest import nearest, random_latents
from taming.first_stage.ranges import NumCodes, Width


class EMAQuantizer(Quantizer):
    """Code k is sums[k] / counts[k], moving averages of the latents that chose it and of their
    number; loss = commitment_weight |z - sg[e]|^2.

    It starts with counts of 1 and the code as sum, so that codes not chosen stay where they are. (A
    Laplace-smoothed start from 0, as in much public code, throws them far out in one step.) One
    step is one batch: where gradients are accumulated, its parts are counted together.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, numbers in a vector.
        commitment_weight: of the loss.
        decay: of the averages, for each batch.
        restart: codes whose count fell below this share of an even use are put on latents of the
            batch, their averages with them; 0 never does.
        from_data: codes begin as latents of the first training batch (of its first part, where
            gradients are accumulated).
    """

    counts: Tensor
    sums: Tensor
    started: Tensor | None

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        commitment_weight: Weight = 0.25,
        decay: Decay = 0.99,
        restart: Decay = 0.0,
        from_data: bool = False,
    ):
        super().__init__()
        self.num_codes, self.dim = (num_codes,), dim
        self.commitment_weight, self.decay, self.restart = commitment_weight, decay, restart
        self.embedding = nn.Embedding(num_codes, dim).requires_grad_(False)
        self.register_buffer("started", torch.tensor(False) if from_data else None)
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", self.embedding.weight.detach().clone())
        self._batch: tuple[Tensor, Tensor] | None = None  # counts and sums of the batch so far

    def codebook(self, level: int = 0) -> Tensor:
        """(K, D), float32."""
        return self.embedding.weight.float()

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = rearrange(latent.float(), "b d h w -> b h w d")
            flat = z.detach().flatten(0, 2)
            if self.training and self.started is not None and not self.started:
                self._start(flat)
                self.started.fill_(True)
            codes = nearest(flat, self.embedding.weight).view(z.shape[:-1])
            e = F.embedding(codes, self.embedding.weight.float())
            loss = self.commitment_weight * F.mse_loss(z, e)
            if self.training:
                self._count(flat, codes.flatten())
            quantized = rearrange(straight_through(z, e), "b h w d -> b d h w")
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(F.embedding(codes[0], self.embedding.weight), "b h w d -> b d h w")

    @torch.no_grad()
    def _count(self, flat: Tensor, codes: Tensor) -> None:
        """Adds up over the parts of a batch, and with the last one the codebook follows."""
        counts = torch.bincount(codes, minlength=self.num_codes[0]).to(flat)
        sums = flat.new_zeros(len(counts), self.dim).index_add_(0, codes, flat)
        if self._batch is not None and not self.begins_batch:
            counts += self._batch[0]
            sums += self._batch[1]
        self._batch = None if self.ends_batch else (counts, sums)
        if self.ends_batch:
            self._follow(counts, sums)
            if self.restart:
                self._restart_unused(flat)

    def _follow(self, counts: Tensor, sums: Tensor) -> None:
        """One step of the averages; the same in all processes, as if they were one."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        chosen = counts > 0
        self.counts.lerp_(counts.to(self.counts), 1 - self.decay)
        self.sums.lerp_(sums.to(self.sums), 1 - self.decay)
        fresh = self.sums / self.counts.clamp(min=1e-12)[:, None]
        self.embedding.weight.copy_(torch.where(chosen[:, None], fresh, self.embedding.weight))

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        latents = random_latents(flat, len(self.counts))
        self.embedding.weight.copy_(latents)
        self.sums.copy_(latents)

    def _restart_unused(self, flat: Tensor) -> None:
        unused = (self.counts < self.restart * self.counts.mean())[:, None]
        if not unused.any():
            return
        latents = random_latents(flat, len(self.counts)).to(self.sums)
        self.embedding.weight.copy_(torch.where(unused, latents, self.embedding.weight))
        self.sums.copy_(torch.where(unused, latents, self.sums))
        self.counts.copy_(torch.where(unused[:, 0], 1.0, self.counts))
