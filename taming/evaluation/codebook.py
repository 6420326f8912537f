"""How a codebook is used: shares, entropies over all and at each place, dead codes, how near codes
lie to each other, and what single codes look like.
"""

import math

import numpy as np
import torch
from torch import Tensor

from taming.evaluation.intervals import Estimate, bootstrap
from taming.first_stage.interface import FirstStage
from taming.images import contact_sheet

SHOWN = 64  # single codes in the picture


def counts(codes: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """How often each of `size` codes occurs in (N, h, w), pictures weighted."""
    flat = codes.reshape(len(codes), -1)
    return np.bincount(
        flat.ravel(), None if weights is None else np.repeat(weights, flat.shape[1]), minlength=size
    ).astype(np.float64)


def entropy(frequencies: np.ndarray) -> float:
    """Nats, of counts."""
    p = frequencies[frequencies > 0] / frequencies.sum()
    return float(-(p * np.log(p)).sum())


def usage(codes: np.ndarray, size: int, seed: int) -> dict[str, Estimate]:
    """used: share of the K codes that occur; perplexity: exp of their entropy; dead: how many never
    occur.
    """
    told = (
        "bootstrap over pictures, 50 draws, percentiles; biased downwards, for a draw leaves"
        " pictures out"
    )
    measured = {
        "used": lambda w: float((counts(codes, size, w) > 0).mean()),
        "perplexity": lambda w: math.exp(entropy(counts(codes, size, w))),
    }
    found = {
        name: bootstrap(len(codes), statistic, seed, told, draws=50)
        for name, statistic in measured.items()
    }
    return found | {"dead": Estimate(float((counts(codes, size) == 0).sum()), n=len(codes))}


def position_entropy(codes: np.ndarray, size: int) -> np.ndarray:
    """Nats (h, w): of the codes at each place. With N pictures it can't exceed log N."""
    return np.array(
        [
            [entropy(counts(codes[:, i, j], size)) for j in range(codes.shape[2])]
            for i in range(codes.shape[1])
        ]
    )


@torch.no_grad()
def neighbour_distances(model: FirstStage) -> np.ndarray | None:
    """Euclidean distance of each code's latent to the nearest other one's, (K,); None for several
    levels, or where codes have no latents of their own.
    """
    if len(model.num_codes) != 1 or not hasattr(model, "quantizer"):
        return None
    table = model.embed((torch.arange(model.num_codes[0])[:, None, None],)).flatten(1).double()
    nearest = []
    for start in range(0, len(table), 2048):
        distances = torch.cdist(table[start : start + 2048], table)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = math.inf
        nearest.append(distances.min(dim=1).values)
    return torch.cat(nearest).numpy()


@torch.no_grad()
def gallery(model: FirstStage, frequencies: np.ndarray) -> Tensor:
    """What the most frequent codes decode to, (3, H, W): the middle of a field of one code, the
    most frequent first. One level only.
    """
    chosen = torch.from_numpy(np.argsort(-frequencies, kind="stable")[:SHOWN].copy())
    fields = model.decode((chosen[:, None, None].expand(-1, 4, 4).contiguous(),)).clamp(-1, 1)
    patches = fields[..., model.stride : 3 * model.stride, model.stride : 3 * model.stride].expand(
        -1, 3, -1, -1
    )
    return contact_sheet(
        torch.nn.functional.interpolate(patches, scale_factor=max(1, 32 // patches.shape[-1])),
        columns=16,
    )
