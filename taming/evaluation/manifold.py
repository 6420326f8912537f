"""Precision, recall, density, coverage and copying: figures of nearest neighbours in feature space."""

import math
from collections.abc import Iterable

import numpy as np
import torch

from taming.errors import UserError
from taming.evaluation.intervals import Estimate, average

TILE = 2048  # pictures in one piece of a distance matrix


# Numbers in a set of features, beyond which single distances are taken in float32
LARGE = 20_000_000


def _distances(x: np.ndarray, y: np.ndarray) -> Iterable[tuple[slice, slice, torch.Tensor]]:
    """(rows of x, rows of y, distances between them) in tiles, all of y before the next of x."""
    kind = np.float64 if max(x.size, y.size) <= LARGE else np.float32
    centre = sum(
        np.asarray(y[start : start + TILE], dtype=np.float64).sum(axis=0)
        for start in range(0, len(y), TILE)
    ) / len(y)
    shifted = lambda part: torch.from_numpy(
        (np.asarray(part, dtype=np.float64) - centre).astype(kind)
    )  # noqa: E731 (squares cancel less around the mean)
    for start in range(0, len(x), TILE):
        rows = shifted(x[start : start + TILE])
        for first in range(0, len(y), TILE):
            columns = shifted(y[first : first + TILE])
            yield (
                slice(start, start + len(rows)),
                slice(first, first + len(columns)),
                torch.cdist(rows, columns),
            )


def neighbour_radii(points: np.ndarray, k: int) -> torch.Tensor:
    """Distance of each point to its k-th nearest other one, (N,)."""
    if len(points) <= k:
        raise UserError(
            f"{len(points)} pictures have no {k}-th nearest neighbour; give more than {k}"
        )
    smallest = torch.full((len(points), k), math.inf, dtype=torch.float64)
    for rows, columns, distances in _distances(points, points):
        if rows == columns:
            distances.fill_diagonal_(math.inf)
        here = distances.topk(min(k, distances.shape[1]), largest=False).values.double()
        smallest[rows] = torch.cat([smallest[rows], here], dim=1).topk(k, largest=False).values
    return smallest.max(dim=1).values


def nearest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distance, index) of the nearest of y (M, D) for each of x (N, D)."""
    values, indices = np.full(len(x), math.inf), np.zeros(len(x), dtype=np.int64)
    for rows, columns, distances in _distances(x, y):
        here = distances.min(dim=1)
        nearer = here.values.double().numpy() < values[rows]
        values[rows] = np.where(nearer, here.values.double().numpy(), values[rows])
        indices[rows] = np.where(nearer, here.indices.numpy() + columns.start, indices[rows])
    return values, indices


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, seed: int = 0
) -> dict[str, Estimate]:
    """precision: share of fakes inside some real picture's k-nearest-neighbour ball; recall: the
    same with sides changed (Kynkaanniemi et al. 2019, arXiv 1904.06991).
    """
    inside = _covered(fake, real, neighbour_radii(real, k)) > 0
    found = _covered(real, fake, neighbour_radii(fake, k)) > 0
    told = "the other side's balls held fixed, which is too narrow"
    return {"precision": average(inside, seed, told), "recall": average(found, seed, told)}


def density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5, seed: int = 0
) -> dict[str, Estimate]:
    """density: how many real balls hold a fake, over k, on average; coverage: share of real balls
    that hold any fake (Naeem et al. 2020, arXiv 2002.09797).
    """
    radii = neighbour_radii(real, k)
    density = _covered(fake, real, radii).double() / k
    held = nearest(real, fake)[0] < radii.numpy()
    told = "the real balls held fixed, which is too narrow"
    return {"density": average(density, seed, told), "coverage": average(held, seed, told)}


def _covered(x: np.ndarray, centres: np.ndarray, radii: torch.Tensor) -> torch.Tensor:
    """How many balls each of x lies in, (N,)."""
    found = torch.zeros(len(x), dtype=torch.int64)
    for rows, columns, distances in _distances(x, centres):
        found[rows] += (distances < radii[columns]).sum(dim=1)
    return found


def copying(
    samples_to_train: np.ndarray, validation_to_train: np.ndarray, seed: int = 0
) -> Estimate:
    """How probable it is that a sample lies nearer to its nearest training picture than a
    validation picture does: 0.5 for a model that makes new pictures as nature does, 1 for one that
    repeats (Mann and Whitney's U over N M, as in Meehan et al. 2020, arXiv 2004.05675).
    """
    ordered = np.sort(validation_to_train)
    below, upto = (np.searchsorted(ordered, samples_to_train, side) for side in ("left", "right"))
    return average(
        1 - (below + upto) / (2 * len(ordered)),
        seed,
        "the validation pictures held fixed, which is too narrow",
    )
