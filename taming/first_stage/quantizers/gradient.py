"""How a gradient comes through the choice of a code."""

import torch.nn.functional as F
from torch import Tensor


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """Worth e, and to z its gradient as it is (van den Oord et al. 2017, arXiv 1711.00937, section
    3.2). Exact in both, which z + (e - z).detach() is not.
    """
    return e.detach() + (z - z.detach())


def rotated(z: Tensor, e: Tensor) -> Tensor:
    """Worth e, and to z the gradient turned and scaled as z would have to be to become e (Fifty et
    al. 2024, arXiv 2410.06424, section 4). Vectors (..., D).
    """
    z_length, e_length = (
        z.detach().norm(dim=-1, keepdim=True),
        e.detach().norm(dim=-1, keepdim=True),
    )
    from_, to = z.detach() / z_length.clamp(min=1e-6), e.detach() / e_length.clamp(min=1e-6)
    between = F.normalize(from_ + to, dim=-1)
    dot = lambda a, b: (a * b).sum(dim=-1, keepdim=True)  # noqa: E731
    turned = (z - 2 * between * dot(between, z) + 2 * to * dot(from_, z)) * (
        e_length / z_length.clamp(min=1e-6)
    )
    return straight_through(turned, e)
