"""A codebook of which only some codes are used, numbered anew: so a prior need not tell apart what
never occurs.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.nearest import nearest


class RemappedQuantizer(Quantizer):
    """Code i of this one is code used[i] of `quantizer`.

    used: an .npy file with the codes in use, or only their number, where a checkpoint brings them.
    unknown: what becomes of a code that is not among them: `nearest`, the used code whose vector is
    nearest; `extra`, one number more for all of them, which `embed` turns into the first used code;
    or a number. The latent is always that of the original code.
    """

    def __init__(self, quantizer: Quantizer, used: str | int, unknown: str | int = "nearest"):
        super().__init__()
        if unknown not in ("nearest", "extra") and not isinstance(unknown, int):
            raise ValueError(f"unknown is {unknown!r}; nearest, extra or a number is wanted")
        self.inner, self.unknown, self.dim = quantizer, unknown, quantizer.dim
        if isinstance(used, str) and not Path(used).is_file():
            raise UserError(
                f"list of used codes '{used}' does not exist; save one with numpy.save, or give"
                " their number where a checkpoint brings them"
            )
        listed = (
            torch.arange(used)
            if isinstance(used, int)
            else torch.from_numpy(np.load(used).astype(np.int64))
        )
        self.register_buffer("used", listed)
        self.num_codes = (len(listed) + (unknown == "extra"),)

    def set_step(self, batch: int) -> None:
        self.inner.set_step(batch)

    def forward(self, latent: Tensor) -> Quantized:
        quantized = self.inner(latent)
        return Quantized(quantized.latent, (self.renumber(quantized.codes[0]),), quantized.loss)

    def embed(self, codes: Codes) -> Tensor:
        return self.inner.embed((self.used[torch.where(codes[0] < len(self.used), codes[0], 0)],))

    def renumber(self, codes: Tensor) -> Tensor:
        """Codes of the whole codebook (B, h, w) -> codes of this one."""
        table = torch.full((self.inner.num_codes[0],), -1, dtype=torch.int64, device=codes.device)
        table[self.used] = torch.arange(len(self.used), device=codes.device)
        if self.unknown == "nearest":
            codebook = self.inner.embed(
                (torch.arange(len(table), device=codes.device)[None, None],)
            )[0, :, 0].T
            table = torch.where(table < 0, nearest(codebook, codebook[self.used]), table)
        else:
            table = torch.where(
                table < 0, len(self.used) if self.unknown == "extra" else self.unknown, table
            )
        return table[codes]
