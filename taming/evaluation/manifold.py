"""Precision, recall, density, coverage and copying: figures of nearest neighbours in feature space.

Letters: N, M pictures; D features.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from taming.errors import UserError
from taming.evaluation.intervals import Estimate, average

TILE = 2048  # pictures in one piece of a distance matrix
# Numbers in a set of features, beyond which single distances are taken in float32
LARGE = 20_000_000


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, slice, Tensor]]:
    """(rows of x, rows of y, distances between them) in tiles, all of y before the next of x."""
    kind = np.float64 if max(x.size, y.size) <= LARGE else np.float32
    sums = [
        np.asarray(y[start : start + TILE], dtype=np.float64).sum(axis=0)
        for start in range(0, len(y), TILE)
    ]
    centre = sum(sums) / len(y)

    def shifted(part: np.ndarray) -> Tensor:  # squares cancel less around the mean
        return torch.from_numpy((np.asarray(part, dtype=np.float64) - centre).astype(kind))

    for start in range(0, len(x), TILE):
        rows = shifted(x[start : start + TILE])
        for first in range(0, len(y), TILE):
            columns = shifted(y[first : first + TILE])
            places = slice(start, start + len(rows)), slice(first, first + len(columns))
            yield *places, torch.cdist(rows, columns)


def neighbour_radii(points: np.ndarray, k: int) -> Tensor:
    """Distance of each point (N, D) to its k-th nearest other one, (N,)."""
    if len(points) <= k:
        raise UserError(
            f"{len(points)} picture{'' if len(points) == 1 else 's'}: too few for the {k} nearest"
            f" neighbours of each; give more than {k}"
        )
    smallest = torch.full((len(points), k), math.inf, dtype=torch.float64)
    for rows, columns, distances in _distances(points, points):
        if rows == columns:
            distances.fill_diagonal_(math.inf)
        nearer = distances.topk(min(k, distances.shape[1]), largest=False).values.double()
        smallest[rows] = torch.cat([smallest[rows], nearer], dim=1).topk(k, largest=False).values
    return smallest.max(dim=1).values


def nearest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distance, index) of the nearest of y (M, D) for each of x (N, D)."""
    values, indices = np.full(len(x), math.inf), np.zeros(len(x), dtype=np.int64)
    for rows, columns, distances in _distances(x, y):
        smallest = distances.min(dim=1)
        nearer = smallest.values.double().numpy() < values[rows]
        values[rows] = np.where(nearer, smallest.values.double().numpy(), values[rows])
        places = smallest.indices.numpy() + columns.start
        indices[rows] = np.where(nearer, places, indices[rows])
    return values, indices


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, seed: int = 0
) -> dict[str, Estimate]:
    """precision: share of fakes inside some real picture's k-nearest-neighbour ball; recall: the
    same with sides changed (Kynkaanniemi et al. 2019, arXiv 1904.06991).
    """
    precision = _covering(fake, real, neighbour_radii(real, k)) > 0
    recall = _covering(real, fake, neighbour_radii(fake, k)) > 0
    note = "the other side's balls held fixed, which is too narrow"
    return {"precision": average(precision, seed, note), "recall": average(recall, seed, note)}


def density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5, seed: int = 0
) -> dict[str, Estimate]:
    """density: how many real balls hold a fake, over k, on average; coverage: share of real balls
    that hold any fake (Naeem et al. 2020, arXiv 2002.09797).
    """
    radii = neighbour_radii(real, k)
    density = _covering(fake, real, radii).double() / k
    coverage = nearest(real, fake)[0] < radii.numpy()
    note = "the real balls held fixed, which is too narrow"
    return {"density": average(density, seed, note), "coverage": average(coverage, seed, note)}


def _covering(x: np.ndarray, centres: np.ndarray, radii: Tensor) -> Tensor:
    """How many balls each of x lies in, (N,)."""
    counts = torch.zeros(len(x), dtype=torch.int64)
    for rows, columns, distances in _distances(x, centres):
        counts[rows] += (distances < radii[columns]).sum(dim=1)
    return counts


def copying(
    samples_to_train: np.ndarray, validation_to_train: np.ndarray, seed: int = 0
) -> Estimate:
    """How probable it is that a sample lies nearer to its nearest training picture than a
    validation picture does: 0.5 for a model that makes new pictures as nature does, 1 for one that
    repeats (Mann and Whitney's U over N M, as in Meehan et al. 2020, arXiv 2004.05675).

    Args:
        samples_to_train: the distance of each sample to its nearest training picture, (N,).
        validation_to_train: the same of each validation picture, (M,).
        seed: of the bootstrap.
    """
    ordered = np.sort(validation_to_train)
    below = np.searchsorted(ordered, samples_to_train, "left")
    upto = np.searchsorted(ordered, samples_to_train, "right")
    return average(
        1 - (below + upto) / (2 * len(ordered)),
        seed,
        "the validation pictures held fixed, which is too narrow",
    )
