"""What convolutional priors hear of a condition: one vector at every code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.interface import Condition


class ConditionMap(nn.Module):
    """Rasters are laid over the codes, by nearest neighbour and a 3x3 convolution, and through
    `blocks` residual blocks; all other tokens are heard everywhere.

    parts: one mapping per part of the condition, {vocabulary: V, grid: [h, w]} for a raster, else
    {vocabulary: V, length: M}.
    """

    def __init__(self, parts: list[dict], width: int, blocks: int = 0):
        super().__init__()
        self.width = width
        self.vocabularies = [part["vocabulary"] for part in parts]
        self.rasters = [bool(part.get("grid")) for part in parts]
        self.lengths = [
            math.prod(part["grid"]) if part.get("grid") else part["length"] for part in parts
        ]
        counts = [
            v + 1 if raster else (v + 1) * n
            for v, raster, n in zip(self.vocabularies, self.rasters, self.lengths)
        ]
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        self.spread = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ELU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ELU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(blocks)
        )

    def forward(self, condition: Condition, grid: tuple[int, int]) -> Tensor:
        """(B, width, h, w)"""
        said = [(part.vocabulary, part.grid is not None) for part in condition]
        known = list(zip(self.vocabularies, self.rasters))
        if said != known or any(
            not part.grid and part.tokens.shape[1] != n for part, n in zip(condition, self.lengths)
        ):
            raise UserError(
                f"the condition has (vocabulary, is a raster) {said}, but this prior knows {known};"
                " was it trained with another conditioner?"
            )
        tokens = condition[0].tokens
        over = everywhere = torch.zeros(
            len(tokens), self.width, *grid, device=tokens.device, dtype=self.spread.weight.dtype
        )
        for part, table in zip(condition, self.tables):
            if part.grid:
                picture = table(part.tokens).unflatten(1, part.grid).permute(0, 3, 1, 2)
                over = over + self.spread(F.interpolate(picture, grid, mode="nearest"))
            else:
                places = torch.arange(part.tokens.shape[1], device=tokens.device) * (
                    part.vocabulary + 1
                )
                everywhere = everywhere + table(part.tokens + places).sum(dim=1)[..., None, None]
        for block in self.blocks:
            over = over + block(over)
        return over + everywhere
