"""Residual quantization: each quantizer takes what the ones before it left over (Lee et al. 2022,
arXiv 2203.01941, section 3.1).
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from taming.config.ranges import Length
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.gradient import straight_through


class ResidualQuantizer(Quantizer):
    """Several codes per position, as levels: the latent is the sum of their vectors.

    Args:
        quantizers: first to last, all of one dimension.
    """

    def __init__(self, quantizers: Annotated[list[Quantizer], Length(1, 64)]):
        super().__init__()
        dims = [dim for quantizer in quantizers for dim in (quantizer.dim, quantizer.code_dim)]
        if len(set(dims)) != 1:
            raise ValueError(f"quantizers of dimensions {dims} can't be added; make them equal")
        self.quantizers = nn.ModuleList(quantizers)
        self.depths = tuple(quantizers)
        self.num_codes = tuple(n for quantizer in quantizers for n in quantizer.num_codes)
        self.dim = quantizers[0].dim

    def set_step(self, batch: int, micro_batch: int = 0, micro_batches: int = 1) -> None:
        for quantizer in self.depths:
            quantizer.set_step(batch, micro_batch, micro_batches)

    def forward(self, latent: Tensor) -> Quantized:
        z = latent.float()
        rest, codes, loss = z, (), latent.new_zeros(())
        for quantizer in self.depths:
            quantized = quantizer(rest)
            rest = rest - quantized.latent.detach()
            codes, loss = codes + quantized.codes, loss + quantized.loss
        return Quantized(straight_through(z, self.embed(codes)).to(latent.dtype), codes, loss)

    def codebook(self, level: int = 0) -> Tensor:
        return self.depths[level].codebook()

    def embed(self, codes: Codes) -> Tensor:
        depths = zip(self.depths, codes)
        return torch.stack([quantizer.embed((grid,)) for quantizer, grid in depths]).sum(dim=0)
