"""Residual quantization: each quantizer takes what the ones before it left over (Lee et al. 2022,
arXiv 2203.01941, section 3.1).
"""

import torch
from torch import Tensor, nn

from taming.first_stage.interface import Codes, Quantized, Quantizer


class ResidualQuantizer(Quantizer):
    """Several codes per position, as levels: the latent is the sum of their vectors. quantizers:
    first to last, all of one dimension.
    """

    def __init__(self, quantizers: list):
        super().__init__()
        if len({quantizer.dim for quantizer in quantizers}) != 1:
            raise ValueError(
                f"quantizers of dimensions {[q.dim for q in quantizers]} can't be added; make them"
                " equal"
            )
        self.quantizers = nn.ModuleList(quantizers)
        self.num_codes = tuple(n for quantizer in quantizers for n in quantizer.num_codes)
        self.dim = quantizers[0].dim

    def set_step(self, batch: int) -> None:
        for quantizer in self.quantizers:
            quantizer.set_step(batch)

    def forward(self, latent: Tensor) -> Quantized:
        left, total, codes, loss = latent.float(), 0.0, (), latent.new_zeros(())
        for quantizer in self.quantizers:
            found = quantizer(left)
            total, left = total + found.latent, left - found.latent.detach()
            codes, loss = codes + found.codes, loss + found.loss
        value = self.embed(codes).detach()
        return Quantized(value + (latent.float() - latent.float().detach()), codes, loss)

    def embed(self, codes: Codes) -> Tensor:
        return torch.stack(
            [quantizer.embed((grid,)) for quantizer, grid in zip(self.quantizers, codes)]
        ).sum(dim=0)
