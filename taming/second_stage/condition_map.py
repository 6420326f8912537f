"""How convolutional priors read a condition: as one vector at every code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.interface import Condition, PartShape


class ConditionMap(nn.Module):
    """Rasters are laid over the codes, by nearest neighbour and a 3x3 convolution, and through
    `blocks` residual blocks; all other tokens are added everywhere.
    """

    def __init__(self, parts: tuple[PartShape, ...], width: int, blocks: int = 0):
        super().__init__()
        self.width, self.parts = width, parts
        # A raster has one table for all of its places, other tokens one for each
        counts = [(part.vocabulary + 1) * (1 if part.grid else part.length) for part in parts]
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        self.smooth = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(_residual(width) for _ in range(blocks))

    def forward(self, condition: Condition, grid: tuple[int, int]) -> Tensor:
        """(B, width, h, w)"""
        self._check(condition)
        tokens = condition[0].tokens
        over = everywhere = torch.zeros(
            len(tokens), self.width, *grid, device=tokens.device, dtype=self.smooth.weight.dtype
        )
        for part, table in zip(condition, self.tables):
            if part.grid:
                raster = table(part.tokens).unflatten(1, part.grid).permute(0, 3, 1, 2)
                over = over + self.smooth(F.interpolate(raster, grid, mode="nearest"))
            else:
                places = torch.arange(part.tokens.shape[1], device=tokens.device)
                vectors = table(part.tokens + places * (part.vocabulary + 1))
                everywhere = everywhere + vectors.sum(dim=1)[..., None, None]
        for block in self.blocks:
            over = over + block(over)
        return over + everywhere

    def _check(self, condition: Condition) -> None:
        """Rasters may have any size: they are laid over the codes."""
        actual = [(part.vocabulary, "grid" if part.grid else part.shape.size) for part in condition]
        trained = [(part.vocabulary, "grid" if part.grid else part.size) for part in self.parts]
        if actual != trained:
            raise UserError(
                f"the condition has (vocabulary, length or grid) {actual}, but this prior knows"
                f" {trained}; was it trained with another conditioner?"
            )


def _residual(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=1),
    )
