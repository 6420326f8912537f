"""A codebook of which only some codes are used, numbered anew: a prior then need not learn what
never occurs.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from taming.config.ranges import Index, InputFile
from taming.errors import UserError, first_line
from taming.first_stage.interface import Codes, Quantized, Quantizer
from taming.first_stage.quantizers.nearest import nearest
from taming.first_stage.ranges import NumCodes


class RemappedQuantizer(Quantizer):
    """Code i of this one is code used[i] of `quantizer`. The latent is always that of the original
    code.

    Args:
        quantizer: with the whole codebook.
        used: an .npy file with the codes in use, or only their number, where a checkpoint brings
            them.
        unknown: what becomes of a code that is not among them: the used code whose vector is
            nearest; `extra`, one more number for all of them, which `embed` turns into the first
            used code; or one of the new codes.
    """

    used: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        used: InputFile | NumCodes,
        unknown: Literal["nearest", "extra"] | Index = "nearest",
    ):
        super().__init__()
        if len(quantizer.num_codes) != 1:
            raise ValueError("a quantizer with several codes per position can't be remapped")
        self.inner, self.unknown, self.dim = quantizer, unknown, quantizer.dim
        codes = torch.arange(used) if isinstance(used, int) else _read_codes(used)
        highest = used - 1 if isinstance(used, int) else int(codes.max())
        if highest >= quantizer.num_codes[0]:
            raise ValueError(
                f"used codes reach {highest}, but the quantizer has 0 to"
                f" {quantizer.num_codes[0] - 1}"
            )
        if not (unknown in ("nearest", "extra") or unknown in range(len(codes))):
            raise ValueError(
                f"unknown is {unknown!r}, but nearest, extra or a number below {len(codes)} is"
                " expected"
            )
        self.register_buffer("used", codes)
        self.num_codes = (len(codes) + (unknown == "extra"),)

    @property
    def code_dim(self) -> int:
        return self.inner.code_dim

    def set_step(self, batch: int, micro_batch: int = 0, micro_batches: int = 1) -> None:
        self.inner.set_step(batch, micro_batch, micro_batches)

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
            every = torch.arange(len(table), device=codes.device)[None, None]
            codebook = self.inner.embed((every,))[0, :, 0].T
            substitute = nearest(codebook, codebook[self.used])
        else:
            number = len(self.used) if self.unknown == "extra" else int(self.unknown)
            substitute = torch.full_like(table, number)
        return torch.where(table < 0, substitute, table)[codes]


def _read_codes(path: str) -> Tensor:
    """The list of codes in an .npy file."""
    try:
        codes = np.load(path)
    except FileNotFoundError:
        raise UserError(
            f"list of used codes '{path}' does not exist; save one with numpy.save, or give"
            " their number where a checkpoint brings them"
        ) from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"list of used codes '{path}': {first_line(error)}") from None
    if not isinstance(codes, np.ndarray) or codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise UserError(f"list of used codes '{path}' is no list of integers saved by numpy.save")
    if len(np.unique(codes)) != len(codes) or len(codes) < 2 or codes.min() < 0:
        raise UserError(f"list of used codes '{path}' should hold two or more, each once, from 0")
    return torch.from_numpy(codes.astype(np.int64))
