"""How a codebook is used: shares, entropies over all and at each place, dead codes, how near codes
lie to each other, and what single codes look like.
"""

import math

import numpy as np
import torch
from torch import Tensor

from taming.errors import UserError
from taming.evaluation import reconstruction
from taming.evaluation.intervals import Estimate, bootstrap
from taming.evaluation.protocol import array_writer
from taming.evaluation.session import Session
from taming.files import write_atomically
from taming.first_stage.interface import FirstStage
from taming.images import contact_sheet

MOST = 64  # single codes in the picture


def evaluate(session: Session) -> None:
    """used, perplexity, dead, position_entropy, neighbour_distance; codes.npz and codes.png."""
    first = session.first
    if not isinstance(first, FirstStage):
        return
    rows, arrays = reconstruction.measured(session), {}
    is_single = len(first.num_codes) == 1
    # 1. each level
    for level, size in enumerate(first.num_codes):
        suffix = "" if is_single else f"_{level}"
        codes = np.asarray(rows[f"codes_{level}"])
        figures = usage(codes, size, session.request.seed)
        session.add({f"{name}{suffix}": value for name, value in figures.items()}, session.stamp())
        arrays[f"counts{suffix}"] = counts(codes, size)
        entropies = arrays[f"position_entropy{suffix}"] = position_entropy(codes, size)
        session.figures.add(
            f"position_entropy{suffix}",
            float(entropies.mean()),
            session.stamp(),
            "nats, mean over places",
        )
    # 2. the codebook itself
    nearest = neighbour_distances(first)
    if nearest is not None:
        arrays["neighbour_distances"] = nearest
        session.figures.add(
            "neighbour_distance",
            float(np.median(nearest)),
            session.stamp(),
            "median over codes of the distance to the nearest other one",
        )
    # 3. files beside the figures
    if is_single and first.key == "image":
        session.save("codes.png", gallery(first, arrays["counts"]))
    if session.store.rank == 0:
        write_atomically(session.folder / "codes.npz", array_writer(arrays))


def counts(codes: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """How often each code occurs, (K,).

    Args:
        codes: (N, h, w) in [0, K).
        size: K.
        weights: of each picture, (N,).
    """
    flat = codes.reshape(len(codes), -1)
    if flat.size and not 0 <= flat.min() <= flat.max() < size:
        raise UserError(
            f"codes go from {flat.min()} to {flat.max()}, but the codebook has {size}; if an"
            " interrupted evaluation left damaged rows, delete the folder work-... beside the"
            " figures"
        )
    repeated = None if weights is None else np.repeat(weights, flat.shape[1])
    return np.bincount(flat.ravel(), repeated, minlength=size).astype(np.float64)


def entropy(frequencies: np.ndarray) -> float:
    """Nats, of counts."""
    p = frequencies[frequencies > 0] / frequencies.sum()
    return float(-(p * np.log(p)).sum())


def usage(codes: np.ndarray, size: int, seed: int) -> dict[str, Estimate]:
    """used: share of the K codes that occur; perplexity: exp of their entropy; dead: how many never
    occur.
    """
    method = (
        "bootstrap over pictures, 50 draws, percentiles; biased downwards, for a draw leaves"
        " pictures out"
    )

    def used(weights: np.ndarray) -> float:
        return float((counts(codes, size, weights) > 0).mean())

    def perplexity(weights: np.ndarray) -> float:
        return math.exp(entropy(counts(codes, size, weights)))

    dead = float((counts(codes, size) == 0).sum())
    return {
        "used": bootstrap(len(codes), used, seed, method, draws=50),
        "perplexity": bootstrap(len(codes), perplexity, seed, method, draws=50),
        "dead": Estimate(dead, n=len(codes)),
    }


def position_entropy(codes: np.ndarray, size: int) -> np.ndarray:
    """Nats (h, w): of the codes (N, h, w) at each place. With N pictures it can't exceed log N."""
    entropies = np.zeros(codes.shape[1:])
    for place in np.ndindex(*entropies.shape):
        entropies[place] = entropy(counts(codes[(slice(None), *place)], size))
    return entropies


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

    Args:
        model: whose codes.
        frequencies: how often each code occurs, (K,).
    """
    chosen = torch.from_numpy(np.argsort(-frequencies, kind="stable")[:MOST].copy())
    fields = model.decode((chosen[:, None, None].expand(-1, 4, 4).contiguous(),)).clamp(-1, 1)
    middle = slice(model.stride, 3 * model.stride)
    patches = fields[..., middle, middle].expand(-1, 3, -1, -1)
    scale = max(1, 32 // patches.shape[-1])
    return contact_sheet(torch.nn.functional.interpolate(patches, scale_factor=scale), columns=16)
