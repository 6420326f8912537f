"""Estimates with intervals: means and bootstraps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BOOTSTRAPS = 200


@dataclass
class Estimate:
    """A value with a 95 % interval; `interval` says how that came about and what is wrong with it."""

    value: float
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    n: int = 0


def average(values, seed: int = 0, note: str = "") -> Estimate:
    """The mean of a number per picture, with a percentile bootstrap."""
    values = np.asarray(values, dtype=np.float64)
    told = f"bootstrap over pictures, {BOOTSTRAPS} draws, percentiles" + (
        f"; {note}" if note else ""
    )
    return bootstrap(
        len(values), lambda weights: float(weights @ values / weights.sum()), seed, told
    )


def bootstrap(
    n: int,
    statistic: Callable[[np.ndarray], float],
    seed: int = 0,
    told: str = "",
    draws: int = BOOTSTRAPS,
) -> Estimate:
    """statistic: of how often each of the n pictures is counted, (n,)."""
    generator = np.random.default_rng(seed)
    value, told = (
        statistic(np.ones(n)),
        told or f"bootstrap over pictures, {draws} draws, percentiles",
    )
    drawn = (
        [
            statistic(generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64))
            for _ in range(draws)
        ]
        if n > 1
        else [value]
    )
    low, high = np.percentile(drawn, [2.5, 97.5])
    if not low <= value <= high:  # a statistic that draws bias: around the value instead
        low, high = value - 1.96 * np.std(drawn), value + 1.96 * np.std(drawn)
        told += f"; the draws lie around {np.mean(drawn):.4g}, so here value +- 1.96 deviations"
    return Estimate(value, float(low), float(high), told, n)
