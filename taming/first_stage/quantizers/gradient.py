"""How a gradient passes the choice of a code."""

import torch.nn.functional as F
from torch import Tensor


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """The value of e, and to z its gradient as it is (van den Oord et al. 2017, arXiv 1711.00937,
    section 3.2). Exact in both, which z + (e - z).detach() is not.
    """
    return e.detach() + (z - z.detach())


def rotated(z: Tensor, e: Tensor) -> Tensor:
    """The value of e, and to z the gradient rotated and scaled as z would have to be to become e
    (Fifty et al. 2024, arXiv 2410.06424, section 4). Vectors (..., D).
    """
    z_length = z.detach().norm(dim=-1, keepdim=True)
    e_length = e.detach().norm(dim=-1, keepdim=True)
    source = z.detach() / z_length.clamp(min=1e-6)
    target = e.detach() / e_length.clamp(min=1e-6)
    between = F.normalize(source + target, dim=-1)
    # Two reflections, at `between` and at `target`, are the rotation from `source` to `target`
    rotation = z - 2 * between * _dot(between, z) + 2 * target * _dot(source, z)
    return straight_through(rotation * (e_length / z_length.clamp(min=1e-6)), e)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1, keepdim=True)
