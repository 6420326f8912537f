"""Matrices in 8 bits: each row as whole numbers from -127 to 127 and one factor, for files that are
passed on. Reading gives float32 back.
"""

from pathlib import Path

import torch
from torch import Tensor

from taming.formats.content import malformed

FACTORS = ".row_factor"
"""Ends the name of a matrix's factors, which lie beside it."""
SMALLEST = 4096  # numbers, below which a matrix saves nothing worth an error
PRIORS = ("priors.", "level.")
"""Whose matrices are written so: an error of 1 % in them moves no code of a picture, as it would
in a tokenizer.
"""


def suits(name: str, tensor: Tensor) -> bool:
    """Whether it is a matrix of a prior, and large."""
    return (
        name.startswith(PRIORS)
        and tensor.ndim >= 2
        and tensor.is_floating_point()
        and tensor.numel() >= SMALLEST
        and bool(tensor.isfinite().all())
    )


def quantized(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the same shape, and a factor for each row, float32 (rows,)."""
    rows = tensor.detach().float().flatten(1)
    factors = rows.abs().amax(dim=1) / 127
    safe = factors.clamp(min=torch.finfo(torch.float32).tiny)
    numbers = (rows / safe[:, None]).round().clamp(-127, 127).to(torch.int8)
    return numbers.view(tensor.shape), factors


def restored(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file, those in 8 bits multiplied out. Raises UserError where factors do not
    belong to a matrix.
    """
    names = [name for name in tensors if name.endswith(FACTORS)]
    weights = {name: tensor for name, tensor in tensors.items() if name not in names}
    for name in names:
        matrix, factors = name.removesuffix(FACTORS), tensors[name]
        numbers = weights.get(matrix)
        if numbers is None or numbers.dtype != torch.int8 or numbers.ndim < 2:
            raise malformed(path, f"'{name}' belongs to no matrix in 8 bits")
        if factors.shape != numbers.shape[:1] or not factors.is_floating_point():
            raise malformed(path, f"'{name}' holds no number for each row of '{matrix}'")
        rows = numbers.flatten(1).float() * factors.float()[:, None]
        weights[matrix] = rows.view(numbers.shape)
    return weights
