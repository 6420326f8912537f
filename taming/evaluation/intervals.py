"""Estimates with intervals: means and bootstraps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

BOOTSTRAPS = 200


@dataclass
class Estimate:
    """A value with a 95 % interval.

    Args:
        value: what was measured.
        low, high: the ends of the interval; None where there is none.
        interval: how it came about, and what is wrong with it.
        n: how many pictures the value is over.
        bias: how far the value is likely to lie above the truth, in its own unit; None where
            nothing estimates that.
    """

    value: float
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    n: int = 0
    bias: float | None = None


def average(values: ArrayLike, seed: int = 0, note: str = "") -> Estimate:
    """The mean of a number per picture, with a percentile bootstrap."""
    numbers = np.asarray(values, dtype=np.float64)
    method = f"bootstrap over pictures, {BOOTSTRAPS} draws, percentiles"

    def mean(weights: np.ndarray) -> float:
        return float(weights @ numbers / weights.sum())

    return bootstrap(len(numbers), mean, seed, f"{method}; {note}" if note else method)


def bootstrap(
    n: int,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    method: str = "",
    draws: int = BOOTSTRAPS,
) -> Estimate:
    """A statistic of n pictures, with a bootstrap over them.

    Args:
        n: how many pictures.
        statistic: of how often each picture is counted, (n,).
        seed: of the draws.
        method: how the interval came about, in words.
        draws: how often the pictures are drawn anew.
    """
    generator = np.random.default_rng(seed)
    method = method or f"bootstrap over pictures, {draws} draws, percentiles"
    value = statistic(np.ones(n))
    values = [value]
    if n > 1:
        even = np.full(n, 1 / n)
        counts = (generator.multinomial(n, even).astype(np.float64) for _ in range(draws))
        values = [statistic(weights) for weights in counts]
    low, high = np.percentile(values, [2.5, 97.5])
    if not low <= value <= high:  # drawing biases this statistic: around the value instead
        half = 1.96 * np.std(values)
        low, high = value - half, value + half
        method += f"; the draws lie around {np.mean(values):.4g}, so here value +- 1.96 deviations"
    return Estimate(value, float(low), float(high), method, n)
