"""What sets of features say about pictures: Frechet and kernel distances, manifolds, copying, and intervals for all of them. In float64, but for distances
between the single pictures of large sets, which take twice as long in it.

Letters: N, M pictures; D features; K classes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from taming.errors import UserError

BLOCKS = 10  # of the jackknife
BOOTSTRAPS = 200
TILE = 2048  # pictures in one piece of a distance matrix
LARGE = 20_000_000  # numbers in a set of features, beyond which single distances are taken in float32
KERNEL_BLOCK = 5000  # pictures in one estimate of the kernel distance


@dataclass
class Estimate:
    """A value with a 95 % interval; `interval` says how that came about and what is wrong with it."""

    value: float
    low: float | None = None
    high: float | None = None
    interval: str = "none"
    n: int = 0


class Moments:
    """Mean and covariance of features, streamed: `add` (N, D) in any pieces. Memory is D x D, however many come; pieces are centred before they are squared,
    and joined as Chan, Golub and LeVeque 1983 do, so that nothing cancels.
    """

    def __init__(self, dim: int):
        self.count, self.mean, self.scatter = 0, np.zeros(dim), np.zeros((dim, dim))

    def add(self, features: np.ndarray) -> "Moments":
        piece = np.asarray(features, dtype=np.float64)
        if piece.ndim != 2 or piece.shape[1] != len(self.mean):
            raise UserError(f"features of shape {piece.shape} were given, (N, {len(self.mean)}) is wanted")
        if not np.isfinite(piece).all():
            row = int(np.flatnonzero(~np.isfinite(piece).all(axis=1))[0])
            raise UserError(f"features of picture {self.count + row} are not finite (NaN or infinity); does the network fit these pictures?")
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
        """What is left when a part is taken out again."""
        rest = Moments(len(self.mean))
        rest.count = self.count - block.count
        rest.mean = (self.count * self.mean - block.count * block.mean) / rest.count
        shift = block.mean - rest.mean
        rest.scatter = self.scatter - block.scatter - np.outer(shift, shift) * (rest.count * block.count / self.count)
        return rest

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased, (D, D)."""
        if self.count < 2:
            raise UserError(f"{self.count} picture{'s have' if self.count != 1 else ' has'} no covariance; give at least two")
        return self.scatter / (self.count - 1)


class BlockedMoments:
    """Moments of `BLOCKS` interleaved parts (picture i goes to part i mod BLOCKS), for a jackknife over what was streamed and not kept."""

    def __init__(self, dim: int, blocks: int = BLOCKS):
        self.parts, self.seen = [Moments(dim) for _ in range(blocks)], 0

    def add(self, features: np.ndarray) -> "BlockedMoments":
        which = (self.seen + np.arange(len(features))) % len(self.parts)
        for number, part in enumerate(self.parts):
            part.add(np.asarray(features)[which == number])
        self.seen += len(features)
        return self

    def total(self) -> Moments:
        whole = Moments(len(self.parts[0].mean))
        for part in self.parts:
            whole.merge(part)
        return whole


def moments(features: np.ndarray) -> Moments:
    """Of stored features (N, D), in pieces."""
    found = Moments(features.shape[1])
    for start in range(0, len(features), TILE):
        found.add(features[start : start + TILE])
    return found


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): squared 2-Wasserstein distance of the two Gaussians (Dowson and Landau 1982; Heusel et al. 2017,
    arXiv 1706.08500). With A A^T = S_a the last trace is that of (A^T S_b A)^(1/2), whose eigenvalues are real and not negative, so nothing is regularised.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    kept = values > values[-1] * 1e-15 * len(values)
    factor = vectors[:, kept] * np.sqrt(values[kept])
    cross = np.linalg.eigvalsh(factor.T @ second @ factor) if kept.any() else np.zeros(1)
    distance = np.square(a.mean - b.mean).sum() + np.trace(first) + np.trace(second) - 2 * np.sqrt(cross.clip(min=0)).sum()
    return float(max(distance, 0.0))


def frechet(real: np.ndarray, fake: np.ndarray, seed: int = 0, bootstraps: int = 50) -> Estimate:
    """Of stored features, with a bootstrap over the pictures of both sides; where one distance takes seconds (D above 1,024, or more than 20,000 pictures), a
    jackknife over blocks instead.
    """
    if real.shape[1] > 1024 or max(len(real), len(fake)) > 20_000:
        blocked = [BlockedMoments(side.shape[1]) for side in (real, fake)]
        for side, target in zip((real, fake), blocked):
            for start in range(0, len(side), TILE):
                target.add(side[start : start + TILE])
        return frechet_streamed(*blocked)
    value = frechet_distance(moments(real), moments(fake))
    generator = np.random.default_rng(seed)
    drawn = [frechet_distance(*(moments(side[generator.integers(0, len(side), len(side))]) for side in (real, fake))) for _ in range(bootstraps)]
    half, shift = 1.96 * float(np.std(drawn, ddof=1)), float(np.mean(drawn)) - value
    told = (
        f"bootstrap of both sides, {bootstraps} draws, value +- 1.96 deviations; the draws lie {shift:+.3g} from the value: about the bias of the value itself"
    )
    return Estimate(value, max(0.0, value - half), value + half, told, len(fake))


def frechet_streamed(real: BlockedMoments, fake: BlockedMoments) -> Estimate:
    """With a jackknife over blocks of both sides."""
    whole = real.total(), fake.total()
    value = frechet_distance(*whole)
    left = [frechet_distance(whole[0].without(part), whole[1]) for part in real.parts if part.count]
    right = [frechet_distance(whole[0], whole[1].without(part)) for part in fake.parts if part.count]
    variance = sum((len(v) - 1) * np.var(v) for v in (left, right))
    bias = sum((len(v) - 1) * (float(np.mean(v)) - value) for v in (left, right))
    half = 1.96 * math.sqrt(variance)
    told = f"jackknife over {len(left)} and {len(right)} blocks, value +- 1.96 deviations; its estimate of the value's bias is {bias:+.3g}"
    return Estimate(value, max(0.0, value - half), value + half, told, whole[1].count)


def frechet_extrapolated(real: np.ndarray, fake: np.ndarray, seed: int = 0, fractions: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)) -> float:
    """The Frechet distance at N to infinity: a line through its values at shares of both sides, over 1 / share (Chong and Forsyth 2020, arXiv 1911.07023,
    who thin out one side only). Each share is the mean of five draws.
    """
    generator = np.random.default_rng(seed)

    def thinned(share: float) -> float:
        parts = [side[generator.permutation(len(side))[: max(2, round(share * len(side)))]] for side in (real, fake)]
        return frechet_distance(*(moments(part) for part in parts))

    values = [np.mean([thinned(share) for _ in range(5 if share < 1 else 1)]) for share in fractions]
    return float(np.polyfit([1 / f for f in fractions], values, 1)[1])


def too_few(n: int, dim: int) -> str | None:
    """A warning where N pictures are too few for a covariance of this dimension."""
    if n > 10 * dim:
        return None
    what = "its covariance is singular" if n <= dim else "it is too large"
    return f"{n} pictures for {dim} features: {what} and the Frechet distance biased upwards; compare only at equal N, or take the kernel distance"


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, unbiased, so it may be negative (Binkowski et al. 2018, arXiv 1801.01401): over all
    pictures, or where there are more than 5,000, the mean over blocks. The interval is a jackknife over pictures, whose leave-one-out values come from row
    sums.
    """
    blocks = max(1, math.ceil(max(len(real), len(fake)) / KERNEL_BLOCK))
    found = [_mmd(real[i::blocks], fake[i::blocks]) for i in range(blocks)]
    value = float(np.mean([f[0] for f in found]))
    half = 1.96 * math.sqrt(sum(f[1] for f in found)) / blocks
    return Estimate(value, value - half, value + half, f"jackknife over pictures, {blocks} block{'s' if blocks > 1 else ''}; unbiased", len(fake))


def _mmd(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(unbiased estimate, its variance by the jackknife)."""
    if min(len(x), len(y)) < 2:
        raise UserError(f"a kernel distance needs at least two pictures on each side; {len(x)} and {len(y)} were given")
    n, m = len(x), len(y)
    xx, yy, xy, yx = _kernel_rows(x, x, True), _kernel_rows(y, y, True), _kernel_rows(x, y), _kernel_rows(y, x)
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
            kernel = (rows @ np.asarray(y[first : first + TILE], dtype=np.float64).T / x.shape[1] + 1) ** 3
            if same and first == start:
                np.fill_diagonal(kernel, 0.0)
            sums[start : start + TILE] += kernel.sum(axis=1)
    return sums


def classifier_score(logits: np.ndarray, splits: int = 10) -> Estimate:
    """exp of the mean KL(p(y | x) || p(y)), mean over parts (Salimans et al. 2016, arXiv 1606.03498; the Inception score where Inception gives the logits)."""
    logs = torch.from_numpy(np.asarray(logits, dtype=np.float64)).log_softmax(dim=1)
    scores = []
    for part in logs.tensor_split(min(splits, len(logs))):
        mean = part.exp().mean(dim=0)
        scores.append(float((part.exp() * (part - mean.log())).sum(dim=1).mean().exp()))
    half = 1.96 * float(np.std(scores, ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    value = float(np.mean(scores))
    told = f"over {len(scores)} parts of {len(logs) // len(scores)} pictures; small parts bias the score downwards"
    return Estimate(value, value - half, value + half, told, len(logs))


def _distances(x: np.ndarray, y: np.ndarray) -> Iterable[tuple[slice, slice, torch.Tensor]]:
    """(rows of x, rows of y, distances between them) in tiles, all of y before the next of x."""
    kind = np.float64 if max(x.size, y.size) <= LARGE else np.float32
    centre = sum(np.asarray(y[start : start + TILE], dtype=np.float64).sum(axis=0) for start in range(0, len(y), TILE)) / len(y)
    shifted = lambda part: torch.from_numpy((np.asarray(part, dtype=np.float64) - centre).astype(kind))  # noqa: E731 (squares cancel less around the mean)
    for start in range(0, len(x), TILE):
        rows = shifted(x[start : start + TILE])
        for first in range(0, len(y), TILE):
            columns = shifted(y[first : first + TILE])
            yield slice(start, start + len(rows)), slice(first, first + len(columns)), torch.cdist(rows, columns)


def neighbour_radii(points: np.ndarray, k: int) -> torch.Tensor:
    """Distance of each point to its k-th nearest other one, (N,)."""
    if len(points) <= k:
        raise UserError(f"{len(points)} pictures have no {k}-th nearest neighbour; give more than {k}")
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


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3, seed: int = 0) -> dict[str, Estimate]:
    """precision: share of fakes inside some real picture's k-nearest-neighbour ball; recall: the same with sides changed (Kynkaanniemi et al. 2019,
    arXiv 1904.06991).
    """
    inside = _covered(fake, real, neighbour_radii(real, k)) > 0
    found = _covered(real, fake, neighbour_radii(fake, k)) > 0
    told = "the other side's balls held fixed, which is too narrow"
    return {"precision": average(inside, seed, told), "recall": average(found, seed, told)}


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5, seed: int = 0) -> dict[str, Estimate]:
    """density: how many real balls hold a fake, over k, on average; coverage: share of real balls that hold any fake (Naeem et al. 2020, arXiv 2002.09797)."""
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


def copying(samples_to_train: np.ndarray, validation_to_train: np.ndarray, seed: int = 0) -> Estimate:
    """How probable it is that a sample lies nearer to its nearest training picture than a validation picture does: 0.5 for a model that makes new pictures as
    nature does, 1 for one that repeats (Mann and Whitney's U over N M, as in Meehan et al. 2020, arXiv 2004.05675).
    """
    ordered = np.sort(validation_to_train)
    below, upto = (np.searchsorted(ordered, samples_to_train, side) for side in ("left", "right"))
    return average(1 - (below + upto) / (2 * len(ordered)), seed, "the validation pictures held fixed, which is too narrow")


def average(values, seed: int = 0, note: str = "") -> Estimate:
    """The mean of a number per picture, with a percentile bootstrap."""
    values = np.asarray(values, dtype=np.float64)
    told = f"bootstrap over pictures, {BOOTSTRAPS} draws, percentiles" + (f"; {note}" if note else "")
    return bootstrap(len(values), lambda weights: float(weights @ values / weights.sum()), seed, told)


def bootstrap(n: int, statistic: Callable[[np.ndarray], float], seed: int = 0, told: str = "", draws: int = BOOTSTRAPS) -> Estimate:
    """statistic: of how often each of the n pictures is counted, (n,)."""
    generator = np.random.default_rng(seed)
    value, told = statistic(np.ones(n)), told or f"bootstrap over pictures, {draws} draws, percentiles"
    drawn = [statistic(generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64)) for _ in range(draws)] if n > 1 else [value]
    low, high = np.percentile(drawn, [2.5, 97.5])
    if not low <= value <= high:  # a statistic that draws bias: around the value instead
        low, high = value - 1.96 * np.std(drawn), value + 1.96 * np.std(drawn)
        told += f"; the draws lie around {np.mean(drawn):.4g}, so here value +- 1.96 deviations"
    return Estimate(value, float(low), float(high), told, n)
