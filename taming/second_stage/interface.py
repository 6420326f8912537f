"""The seam of the second stage: a prior p(codes | condition) and what makes conditions.

Letters: B batch; h, w code grid; K codes in the codebook; M condition length; V condition
vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """One piece of a condition: a class, a mask's codes, a start token."""

    # Int64 (B, M) in [0, vocabulary]; the id `vocabulary` is the null condition, for guidance
    tokens: Tensor
    vocabulary: int
    grid: tuple[int, int] | None = None  # if the tokens are a raster aligned with the codes
    always: bool = False  # said even where nothing is said: the coarser level's codes

    def null(self, which: Tensor | None = None) -> "Part":
        """The same part with nothing said, for all pictures or for those that `which` (B,) bool marks."""
        if self.always:
            return self
        empty = torch.full_like(self.tokens, self.vocabulary)
        return replace(
            self, tokens=empty if which is None else torch.where(which[:, None], empty, self.tokens)
        )

    def crop(self, window: "Window", grid: tuple[int, int]) -> "Part":
        """Of a raster over a code grid of this size, the part that lies over the window."""
        top, left, height, width = (
            n * self.grid[axis % 2] // grid[axis % 2] for axis, n in enumerate(window)
        )
        tokens = self.tokens.unflatten(1, self.grid)[:, top : top + height, left : left + width]
        return replace(self, tokens=tokens.flatten(1), grid=(height, width))


Condition = tuple[Part, ...]
Window = tuple[int, int, int, int]
"""Top, left, height, width, in codes."""


class Conditioner(nn.Module):
    """A batch -> what a prior is told."""

    def forward(self, batch: dict) -> Condition:
        raise NotImplementedError(f"{type(self).__name__} makes no condition")

    def crop(self, condition: Condition, window: "Window", grid: tuple[int, int]) -> Condition:
        """What a window of a code grid of this size is told: of rasters the part that lies over it;
        all else stays.
        """
        return tuple(part if part.grid is None else part.crop(window, grid) for part in condition)

    def picture(self, batch: dict) -> Tensor | None:
        """(B, 3, H, W) in [-1, 1]: what to draw beside the samples; None where there is nothing to see."""
        return None


class Prior(nn.Module):
    """p(codes | condition) for one level."""

    num_codes: int
    grid: tuple[int, int]  # trained on; smaller grids and windows are placed by (row, column)

    def order(self, grid: tuple[int, int]) -> Tensor | None:
        """The raster positions (h w,) in the order they are read; None where that is the raster itself."""
        return None

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """Logits (B, h, w, K), aligned: those at i see the codes read before i only."""
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def log_prob(self, codes: Tensor, condition: Condition) -> Tensor:
        """log p(codes | condition) in nats, (B,)."""
        logits = self(codes, condition).float().log_softmax(dim=-1)
        return logits.gather(-1, codes[..., None]).flatten(1).sum(dim=1)

    def decoding(self) -> AbstractContextManager:
        """What a sample is drawn in, for preparations that only last so long."""
        return nullcontext()

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> "Decoder":
        """An object that gives the logits of one code after another."""
        return Decoder(self, condition, grid)


class Decoder:
    """Code after code; this one recomputes everything at each step."""

    def __init__(self, prior: Prior, condition: Condition, grid: tuple[int, int]):
        self.prior, self.condition = prior, condition
        order = prior.order(grid)
        self.order = torch.arange(grid[0] * grid[1]) if order is None else order.cpu()
        tokens = condition[0].tokens
        self.codes = torch.zeros((len(tokens), *grid), dtype=torch.int64, device=tokens.device)
        self.position = 0

    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        return self.prior(self.codes, self.condition).flatten(1, 2)[
            :, self.order[self.position], : self.prior.num_codes
        ]

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        self.codes.flatten(1)[:, self.order[self.position : self.position + codes.shape[1]]] = codes
        self.position += codes.shape[1]
