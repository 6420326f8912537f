"""Light and colours of one picture for another: the mean and covariance of its pixels, a distance
between such statistics, and the linear map that takes one to the other with the least change
(Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taming.errors import UserError

SMALLEST_VARIANCE = 1e-4  # of colours in [-1, 1], so that flat pictures have a map, too


@dataclass(frozen=True)
class ColourStyle:
    """Statistics of a picture's colours.

    Args:
        mean: of R, G and B in [-1, 1].
        covariance: three rows of three.
        strength: how far drawn pictures are moved towards them, 0 to 1.
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    strength: float = 1.0

    def __post_init__(self) -> None:
        numbers = [*self.mean, *(number for row in self.covariance for number in row)]
        shape = (len(self.mean), [len(row) for row in self.covariance])
        if shape != (3, [3, 3, 3]) or not all(-4 <= float(number) <= 4 for number in numbers):
            raise UserError(
                "a style is a mean of three colours and their covariance, three by three"
            )
        if not 0 <= self.strength <= 1:
            raise UserError(f"the strength of a style, {self.strength}, should be from 0 to 1")

    @classmethod
    def of(cls, picture: Tensor, strength: float = 1.0) -> "ColourStyle":
        """Of a picture (3, H, W) in [-1, 1]."""
        mean, covariance = _moments(picture)
        rows = tuple(tuple(row) for row in covariance.tolist())
        return cls(tuple(mean.tolist()), rows, strength)

    @classmethod
    def from_plain(cls, plain: Any) -> "ColourStyle":
        """Raises UserError for what `plain` does not write."""
        try:
            mean, covariance = plain["mean"], plain["covariance"]
            rows = tuple(tuple(map(float, row)) for row in covariance)
            return cls(tuple(map(float, mean)), rows, float(plain["strength"]))
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError("a style is a mean, a covariance and a strength") from None

    def plain(self) -> dict[str, Any]:
        return {
            "mean": list(self.mean),
            "covariance": [list(row) for row in self.covariance],
            "strength": self.strength,
        }

    def distance(self, picture: Tensor) -> float:
        """From the colours of a picture (3, H, W) in [-1, 1], in steps of 255: the 2-Wasserstein
        distance between normal distributions with these moments.
        """
        mean, covariance = _moments(picture)
        root = _root(self._covariance())
        cross = _root(root @ covariance @ root)
        spread = (self._covariance() + covariance - 2 * cross).diagonal().sum()
        squared = (mean - self._mean()).square().sum() + spread.clamp(min=0)
        return float(squared.sqrt()) * 127.5

    def apply(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], each with these colours, as far as `strength` says."""
        if self.strength == 0:
            return pictures
        moved = []
        for picture in pictures:
            mean, covariance = _moments(picture)
            root = _root(covariance)
            inverse = torch.linalg.inv(root)
            matrix = inverse @ _root(root @ self._covariance() @ root) @ inverse
            flat = picture.double().flatten(1) - mean[:, None]
            target = (matrix @ flat + self._mean()[:, None]).view_as(picture)
            moved.append(picture + self.strength * (target.to(picture) - picture))
        return torch.stack(moved).clamp(-1, 1)

    def _mean(self) -> Tensor:
        return torch.tensor(self.mean, dtype=torch.float64)

    def _covariance(self) -> Tensor:
        return torch.tensor(self.covariance, dtype=torch.float64)


def nearest(style: ColourStyle, pictures: Sequence[Tensor] | Tensor) -> int:
    """Which of several pictures (3, H, W) has the colours most like these."""
    distances = [style.distance(picture) for picture in pictures]
    return distances.index(min(distances))


def _moments(picture: Tensor) -> tuple[Tensor, Tensor]:
    flat = picture.detach().cpu().double().flatten(1)
    mean = flat.mean(dim=1)
    centred = flat - mean[:, None]
    covariance = centred @ centred.T / flat.shape[1]
    return mean, covariance + SMALLEST_VARIANCE * torch.eye(3, dtype=torch.float64)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
