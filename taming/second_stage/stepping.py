"""Decoding code after code, in raster order: what decoders that keep what they have read share."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class SteppingDecoder(ABC):
    """Each place is computed once, when it is asked for, from the codes before it.

    Args:
        count: of the pictures.
        grid: height and width of their codes.
        device: of the codes.
    """

    def __init__(self, count: int, grid: tuple[int, int], device: torch.device):
        self.grid, self.position, self.computed = grid, 0, 0
        self.codes = torch.zeros((count, math.prod(grid)), dtype=torch.int64, device=device)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        while self.computed <= self.position:
            self.next = self.step(self.computed)
            self.computed += 1
        return self.next

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        self.codes[:, self.position : self.position + codes.shape[1]] = codes
        self.position += codes.shape[1]

    @abstractmethod
    def step(self, position: int) -> Tensor:
        """(B, K) of the code at this place; all places before were computed, in order."""
