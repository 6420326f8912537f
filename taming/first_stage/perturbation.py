"""Codes disturbed as a prior errs: some are replaced by one of the nearest others (Qiu et al. 2025,
arXiv 2509.12474), so that a decoder that learns from them bears with such errors.
"""

import torch
from torch import Tensor

from taming.errors import UserError
from taming.first_stage.inputs import precise
from taming.first_stage.interface import FirstStage

NEAREST = 100  # codes, of which one takes the place
MOST = 65_536  # codes, beyond which their distances to each other take too long


@torch.no_grad()
def neighbours(model: FirstStage) -> Tensor:
    """The NEAREST other codes of each code by the distance of their latents, nearest first, int64
    (K, n); n is at most K - 1.

    Raises:
        UserError: several levels, a single code, too many.
    """
    if len(model.num_codes) != 1:
        raise UserError(f"only models of one level are perturbed, and this has {model.num_codes}")
    count = model.num_codes[0]
    if not 2 <= count <= MOST:
        raise UserError(f"the nearest others are sought of 2 to {MOST:,} codes, not of {count:,}")
    device = model.last_layer.device
    latents = model.embed((torch.arange(count, device=device)[:, None, None],)).flatten(1)
    latents = latents.cpu().to(precise(torch.device("cpu")))  # near codes are told apart
    rows = []
    piece = max(1, 2**24 // count)
    for start in range(0, count, piece):
        distances = torch.cdist(latents[start : start + piece], latents)
        places = torch.arange(len(distances))
        distances[places, start + places] = torch.inf
        rows.append(distances.topk(min(NEAREST, count - 1), largest=False).indices)
    return torch.cat(rows).to(device)


def perturbed(codes: Tensor, table: Tensor, share: float, seed: int | None = None) -> Tensor:
    """Codes of any shape, each replaced by one of its neighbours with probability `share`.

    Args:
        codes: int64.
        table: of `neighbours`.
        share: in [0, 1].
        seed: of these codes alone; None: the global generator's next numbers.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    chosen = torch.rand(codes.shape, generator=generator) < share
    which = torch.randint(table.shape[1], codes.shape, generator=generator)
    others = table[codes, which.to(codes.device)]
    return torch.where(chosen.to(codes.device), others, codes)
