"""Frechet distance between two sets of features, its bias and intervals; and the Inception score.
In float64.

Letters: N, M pictures; D features; K classes.
"""

import math

import numpy as np
import torch

from taming.errors import UserError
from taming.evaluation.intervals import Estimate
from taming.evaluation.manifold import TILE

BLOCKS = 10  # of the jackknife


class Moments:
    """Mean and covariance of features, streamed: `add` (N, D) in any pieces.

    Memory is D x D, however many come; pieces are centred before they are squared, and joined as
    Chan, Golub and LeVeque 1983 do, so that nothing cancels.

    Args:
        dim: D.
    """

    def __init__(self, dim: int):
        self.count, self.mean, self.scatter = 0, np.zeros(dim), np.zeros((dim, dim))

    def add(self, features: np.ndarray) -> "Moments":
        piece = np.asarray(features, dtype=np.float64)
        if piece.ndim != 2 or piece.shape[1] != len(self.mean):
            raise UserError(
                f"features have shape {piece.shape}, and (N, {len(self.mean)}) is expected"
            )
        finite = np.isfinite(piece).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise UserError(
                f"features of picture {self.count + row} are not finite (NaN or infinity); does the"
                " network fit these pictures?"
            )
        if len(piece):
            mean = piece.mean(axis=0)
            centred = piece - mean
            self._join(len(piece), mean, centred.T @ centred)
        return self

    def merge(self, other: "Moments") -> "Moments":
        if other.count:
            self._join(other.count, other.mean, other.scatter)
        return self

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter + np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def without(self, block: "Moments") -> "Moments":
        """The moments of all pictures but those of `block`."""
        rest = Moments(len(self.mean))
        rest.count = self.count - block.count
        rest.mean = (self.count * self.mean - block.count * block.mean) / rest.count
        shift = block.mean - rest.mean
        between = np.outer(shift, shift) * (rest.count * block.count / self.count)
        rest.scatter = self.scatter - block.scatter - between
        return rest

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, (D, D)."""
        if self.count < 2:
            raise UserError(
                f"{self.count} picture{'s have' if self.count != 1 else ' has'} no covariance; give"
                " at least two"
            )
        return self.scatter / (self.count - 1)


class BlockedMoments:
    """Moments of interleaved blocks (picture i goes to block i mod `blocks`), for a jackknife over
    features that are streamed and not stored.

    Args:
        dim: D.
        blocks: how many.
    """

    def __init__(self, dim: int, blocks: int = BLOCKS):
        self.parts, self.count = [Moments(dim) for _ in range(blocks)], 0

    def add(self, features: np.ndarray) -> "BlockedMoments":
        """Features (N, D), in any pieces."""
        for start in range(0, len(features), TILE):
            piece = np.asarray(features[start : start + TILE])
            blocks = (self.count + np.arange(len(piece))) % len(self.parts)
            for number, part in enumerate(self.parts):
                part.add(piece[blocks == number])
            self.count += len(piece)
        return self

    def total(self) -> Moments:
        total = Moments(len(self.parts[0].mean))
        for part in self.parts:
            total.merge(part)
        return total


def moments(features: np.ndarray) -> Moments:
    """Of stored features (N, D), in pieces."""
    total = Moments(features.shape[1])
    for start in range(0, len(features), TILE):
        total.add(features[start : start + TILE])
    return total


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): squared 2-Wasserstein distance of the two
    Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500). With A A^T = S_a the
    last trace is that of (A^T S_b A)^(1/2), whose eigenvalues are real and not negative, so nothing
    is regularised.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    positive = values > values[-1] * 1e-15 * len(values)
    factor = vectors[:, positive] * np.sqrt(values[positive])
    cross = np.linalg.eigvalsh(factor.T @ second @ factor) if positive.any() else np.zeros(1)
    distance = (
        np.square(a.mean - b.mean).sum()
        + np.trace(first)
        + np.trace(second)
        - 2 * np.sqrt(cross.clip(min=0)).sum()
    )
    return float(max(distance, 0.0))


def frechet(real: np.ndarray, fake: np.ndarray, seed: int = 0, bootstraps: int = 50) -> Estimate:
    """The Frechet distance of stored features (N, D), (M, D), with a bootstrap over the pictures of
    both sides; where one distance takes seconds (D above 1,024, or more than 20,000 pictures), a
    jackknife over blocks instead.
    """
    if real.shape[1] > 1024 or max(len(real), len(fake)) > 20_000:
        blocked = [BlockedMoments(side.shape[1]).add(side) for side in (real, fake)]
        return frechet_streamed(*blocked)
    value = frechet_distance(moments(real), moments(fake))
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(bootstraps):
        first, second = (
            moments(side[generator.integers(0, len(side), len(side))]) for side in (real, fake)
        )
        draws.append(frechet_distance(first, second))
    half, shift = 1.96 * float(np.std(draws, ddof=1)), float(np.mean(draws)) - value
    method = (
        f"bootstrap of both sides, {bootstraps} draws, value +- 1.96 deviations; the draws lie"
        f" {shift:+.3g} from the value: about the bias of the value itself"
    )
    return Estimate(value, max(0.0, value - half), value + half, method, len(fake), shift)


def frechet_streamed(real: BlockedMoments, fake: BlockedMoments) -> Estimate:
    """The Frechet distance, with a jackknife over blocks of both sides."""
    x, y = real.total(), fake.total()
    value = frechet_distance(x, y)
    leave_out = (
        [frechet_distance(x.without(part), y) for part in real.parts if part.count],
        [frechet_distance(x, y.without(part)) for part in fake.parts if part.count],
    )
    variance, bias = map(sum, zip(*(jackknife(values, value) for values in leave_out)))
    half = 1.96 * math.sqrt(variance)
    blocks = " and ".join(str(len(values)) for values in leave_out)
    method = (
        f"jackknife over {blocks} blocks, value +- 1.96 deviations; its estimate of the value's"
        f" bias is {bias:+.3g}"
    )
    return Estimate(value, max(0.0, value - half), value + half, method, y.count, bias)


def jackknife(values: list[float], value: float) -> tuple[float, float]:
    """(variance, bias) of a statistic.

    Args:
        values: the statistic with each block left out in turn.
        value: the statistic of all.
    """
    blocks = len(values)
    return (blocks - 1) * float(np.var(values)), (blocks - 1) * (float(np.mean(values)) - value)


def frechet_extrapolated(
    real: np.ndarray,
    fake: np.ndarray,
    seed: int = 0,
    fractions: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
) -> float:
    """The Frechet distance at N to infinity: a line through its values at shares of both sides,
    over 1 / share (Chong and Forsyth 2020, arXiv 1911.07023, who thin out one side only). Each
    share is the mean of five draws.
    """
    generator = np.random.default_rng(seed)

    def thinned(share: float) -> float:
        parts = [
            side[generator.permutation(len(side))[: max(2, round(share * len(side)))]]
            for side in (real, fake)
        ]
        return frechet_distance(*(moments(part) for part in parts))

    values = [
        np.mean([thinned(share) for _ in range(5 if share < 1 else 1)]) for share in fractions
    ]
    return float(np.polyfit([1 / f for f in fractions], values, 1)[1])


def too_few(n: int, dim: int) -> str | None:
    """A warning where N pictures are too few for a covariance of this dimension."""
    if n > 10 * dim:
        return None
    what = "its covariance is singular" if n <= dim else "it is too large"
    return (
        f"{n} picture{'' if n == 1 else 's'} for {dim} features: {what} and the Frechet distance"
        " biased upwards; compare only at equal N, or take the kernel distance"
    )


def classifier_score(logits: np.ndarray, splits: int = 10) -> Estimate:
    """exp of the mean KL(p(y | x) || p(y)), mean over parts (Salimans et al. 2016, arXiv
    1606.03498; the Inception score where Inception gives the logits).

    Args:
        logits: (N, K).
        splits: how many parts.
    """
    logs = torch.from_numpy(np.asarray(logits, dtype=np.float64)).log_softmax(dim=1)
    scores = []
    for part in logs.tensor_split(min(splits, len(logs))):
        mean = part.exp().mean(dim=0)
        scores.append(float((part.exp() * (part - mean.log())).sum(dim=1).mean().exp()))
    value = float(np.mean(scores))
    method = (
        f"over {len(scores)} parts of {len(logs) // len(scores)} pictures; small parts bias the"
        " score downwards"
    )
    if len(scores) < 2:
        return Estimate(value, interval=f"none: {method}", n=len(logs))
    half = 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
    return Estimate(value, value - half, value + half, method, len(logs))
