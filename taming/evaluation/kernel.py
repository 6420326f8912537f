"""Kernel distance between two sets of features (Binkowski et al. 2018, arXiv 1801.01401).

Letters: N, M pictures; D features.
"""

import math

import numpy as np

from taming.errors import UserError
from taming.evaluation.intervals import Estimate
from taming.evaluation.manifold import TILE

KERNEL_BLOCK = 5000  # pictures in one estimate of the kernel distance


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, unbiased, so it may be
    negative: over all pictures, or where there are more than 5,000, the mean over blocks.

    The interval is a jackknife over pictures, whose leave-one-out values come from row sums; fewer
    than three pictures on a side have none.

    Args:
        real, fake: features (N, D), (M, D).
    """
    blocks = max(1, math.ceil(max(len(real), len(fake)) / KERNEL_BLOCK))
    values, variances = zip(*(_mmd(real[i::blocks], fake[i::blocks]) for i in range(blocks)))
    value = float(np.mean(values))
    half = 1.96 * math.sqrt(sum(variances)) / blocks
    if math.isnan(half):
        return Estimate(value, interval="none: fewer than three pictures; unbiased", n=len(fake))
    method = f"jackknife over pictures, {blocks} block{'s' if blocks > 1 else ''}; unbiased"
    return Estimate(value, value - half, value + half, method, len(fake))


def _mmd(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(unbiased estimate, its variance by the jackknife)."""
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise UserError(
            f"a kernel distance needs at least two pictures on each side, and here are {n} and {m}"
        )
    xx, yy = _kernel_rows(x, x, True), _kernel_rows(y, y, True)
    xy, yx = _kernel_rows(x, y), _kernel_rows(y, x)
    value = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.sum() / (n * m)
    variance = 0.0
    for same, cross, count, other in ((xx, xy, n, m), (yy, yx, m, n)):
        if count < 3:
            return float(value), math.nan
        # Of the sets with one picture left out
        within = (same.sum() - 2 * same) / ((count - 1) * (count - 2))
        between = 2 * (cross.sum() - cross) / ((count - 1) * other)
        variance += (count - 1) * float(np.var(within - between))
    return float(value), variance


def _kernel_rows(x: np.ndarray, y: np.ndarray, same: bool = False) -> np.ndarray:
    """sum_j k(x_i, y_j), without j = i where both are the same set."""
    sums = np.zeros(len(x))
    for start in range(0, len(x), TILE):
        rows = np.asarray(x[start : start + TILE], dtype=np.float64)
        for first in range(0, len(y), TILE):
            columns = np.asarray(y[first : first + TILE], dtype=np.float64)
            kernel = (rows @ columns.T / x.shape[1] + 1) ** 3
            if same and first == start:
                np.fill_diagonal(kernel, 0.0)
            sums[start : start + TILE] += kernel.sum(axis=1)
    return sums
