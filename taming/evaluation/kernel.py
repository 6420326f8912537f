"""Kernel distance between two sets of features (Binkowski et al. 2018, arXiv 1801.01401)."""

import math

import numpy as np

from taming.errors import UserError
from taming.evaluation.intervals import Estimate
from taming.evaluation.manifold import TILE

KERNEL_BLOCK = 5000  # pictures in one estimate of the kernel distance


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, unbiased, so it may be
    negative (Binkowski et al. 2018, arXiv 1801.01401): over all pictures, or where there are more
    than 5,000, the mean over blocks. The interval is a jackknife over pictures, whose leave-one-out
    values come from row sums.
    """
    blocks = max(1, math.ceil(max(len(real), len(fake)) / KERNEL_BLOCK))
    found = [_mmd(real[i::blocks], fake[i::blocks]) for i in range(blocks)]
    value = float(np.mean([f[0] for f in found]))
    half = 1.96 * math.sqrt(sum(f[1] for f in found)) / blocks
    return Estimate(
        value,
        value - half,
        value + half,
        f"jackknife over pictures, {blocks} block{'s' if blocks > 1 else ''}; unbiased",
        len(fake),
    )


def _mmd(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(unbiased estimate, its variance by the jackknife)."""
    if min(len(x), len(y)) < 2:
        raise UserError(
            f"a kernel distance needs at least two pictures on each side; {len(x)} and {len(y)}"
            " were given"
        )
    n, m = len(x), len(y)
    xx, yy, xy, yx = (
        _kernel_rows(x, x, True),
        _kernel_rows(y, y, True),
        _kernel_rows(x, y),
        _kernel_rows(y, x),
    )
    value = xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.sum() / (n * m)
    variance = 0.0
    for own, cross, count, other in ((xx, xy, n, m), (yy, yx, m, n)):
        if count < 3:
            return float(value), math.nan
        within = (own.sum() - 2 * own) / ((count - 1) * (count - 2))  # of leave-one-out sets
        between = 2 * (cross.sum() - cross) / ((count - 1) * other)
        variance += (count - 1) * float(np.var(within - between))
    return float(value), variance


def _kernel_rows(x: np.ndarray, y: np.ndarray, same: bool = False) -> np.ndarray:
    """sum_j k(x_i, y_j), without j = i where both are the same set."""
    sums = np.zeros(len(x))
    for start in range(0, len(x), TILE):
        rows = np.asarray(x[start : start + TILE], dtype=np.float64)
        for first in range(0, len(y), TILE):
            kernel = (
                rows @ np.asarray(y[first : first + TILE], dtype=np.float64).T / x.shape[1] + 1
            ) ** 3
            if same and first == start:
                np.fill_diagonal(kernel, 0.0)
            sums[start : start + TILE] += kernel.sum(axis=1)
    return sums
