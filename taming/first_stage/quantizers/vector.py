"""Vector quantization with a codebook learned by gradient (van den Oord et al. 2017, arXiv
1711.00937, eq. 3), and what keeps the codebook in use: low-dimensional l2-normalised codes (Yu et
al. 2022, arXiv 2110.04627, section 3.2) and the restart of unused codes (Dhariwal et al. 2020,
arXiv 2005.00341).
"""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.config.ranges import Weight
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import rotated, straight_through
from taming.first_stage.quantizers.nearest import nearest, random_latents
from taming.first_stage.ranges import Batches, NumCodes, Width

GRADIENTS = {"straight_through": straight_through, "rotated": rotated}


class VectorQuantizer(Quantizer):
    """Each latent vector becomes the nearest of `num_codes` vectors of `dim` numbers.

    loss = codebook_weight |sg[z] - e|^2 + commitment_weight |z - sg[e]|^2, means over all entries.

    Args:
        num_codes: K, vectors in the codebook.
        dim: D, numbers in a vector.
        codebook_weight: of the term that moves codes; 1 in the paper, 0.25 in published VQ-GANs.
        commitment_weight: of the term that moves latents; 0.25 in the paper, 1 in those.
        normalize: latents and codes lie on the unit sphere.
        restart: in training, every so many batches, codes not chosen for that long are put on
            latents of the current batch; 0 never does.
        gradient: how the gradient passes the choice of a code (gradient.py).
        from_data: codes begin as latents of the first training batch (of its first part, where
            gradients are accumulated).
    """

    batches: Tensor
    unseen: Tensor
    started: Tensor | None

    def __init__(
        self,
        num_codes: NumCodes,
        dim: Width,
        codebook_weight: Weight = 1.0,
        commitment_weight: Weight = 0.25,
        normalize: bool = False,
        restart: Batches = 0,
        gradient: Literal["straight_through", "rotated"] = "straight_through",
        from_data: bool = False,
    ):
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient '{gradient}' is unknown; {' and '.join(GRADIENTS)} are")
        self.gradient = gradient
        self.num_codes, self.dim = (num_codes,), dim
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight
        self.normalize, self.restart = normalize, restart
        self.embedding = nn.Embedding(num_codes, dim)
        if normalize:
            nn.init.normal_(self.embedding.weight)
        else:
            nn.init.uniform_(self.embedding.weight, -1 / num_codes, 1 / num_codes)
        self.register_buffer("started", torch.tensor(False) if from_data else None)
        if restart:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
            # Batches since a code was last chosen
            self.register_buffer("unseen", torch.zeros(num_codes, dtype=torch.int64))
            self._counts: Tensor | None = None  # of the codes in the batch so far

    def codebook(self, level: int = 0) -> Tensor:
        """(K, D), normalised where codes are."""
        weight = self.embedding.weight.float()
        return F.normalize(weight, dim=-1) if self.normalize else weight

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            z = rearrange(latent.float(), "b d h w -> b h w d")
            if self.normalize:
                z = F.normalize(z, dim=-1)
            flat = z.detach().flatten(0, 2)
            if self.training and self.started is not None and not self.started:
                self._start(flat)
                self.started.fill_(True)
            if self.training and self.restart and self.begins_batch:
                self._restart_unused(flat)
            codebook = self.codebook()
            codes = nearest(flat, codebook.detach())
            if self.training and self.restart:
                self._count(codes)
            codes = codes.view(z.shape[:-1])
            e = F.embedding(codes, codebook)
            loss = self.codebook_weight * F.mse_loss(
                e, z.detach()
            ) + self.commitment_weight * F.mse_loss(z, e.detach())
            quantized = rearrange(GRADIENTS[self.gradient](z, e), "b h w d -> b d h w")
        return Quantized(quantized.to(latent.dtype), (codes,), loss)

    def embed(self, codes: Codes) -> Tensor:
        return rearrange(F.embedding(codes[0], self.codebook()), "b h w d -> b d h w")

    @torch.no_grad()
    def _restart_unused(self, flat: Tensor) -> None:
        self.batches += 1
        if self.batches % self.restart:
            return
        unused = self.unseen >= self.restart
        if not unused.any():
            return
        fresh = random_latents(flat, len(unused)).to(self.embedding.weight)
        self.embedding.weight.copy_(torch.where(unused[:, None], fresh, self.embedding.weight))
        self.unseen.masked_fill_(unused, 0)

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        self.embedding.weight.copy_(random_latents(flat, self.num_codes[0]))

    @torch.no_grad()
    def _count(self, codes: Tensor) -> None:
        """Adds up over the parts of a batch; `unseen` counts batches, whatever the accumulation."""
        counts = torch.bincount(codes.flatten(), minlength=self.num_codes[0])
        if self._counts is not None and not self.begins_batch:
            counts += self._counts
        self._counts = counts
        if not self.ends_batch:
            return
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        self.unseen.add_(1).masked_fill_(counts > 0, 0)
