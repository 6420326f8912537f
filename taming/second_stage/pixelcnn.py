"""Gated PixelCNN: a prior over code grids by causal convolutions (van den Oord et al. 2016, arXiv 1606.05328)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.interface import Condition, Prior


class GatedPixelCNN(Prior):
    """Two stacks of convolutions: the vertical one sees all rows above, the horizontal one the codes to the left and, through the vertical one, all above: no
    blind spot. Causality comes from padding and shifting, not from masked weights. Codes go in as vectors of a table and come out as K logits.

    grid, parts: as GPT's; rasters of the condition are laid over the codes, all other tokens are heard everywhere. Any grid can be read, also larger ones.
    kernel: odd, of every layer.
    """

    def __init__(self, num_codes: int, grid: list[int], parts: list[dict], layers: int, width: int, kernel: int = 5, dropout: float = 0.0):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} should be odd")
        self.num_codes, self.grid = num_codes, (int(grid[0]), int(grid[1]))
        self.vocabularies = [part["vocabulary"] for part in parts]
        self.rasters = [bool(part.get("grid")) for part in parts]
        self.lengths = [math.prod(part["grid"]) if part.get("grid") else part["length"] for part in parts]
        self.table = nn.Embedding(num_codes, width)
        counts = [v + 1 if raster else (v + 1) * n for v, raster, n in zip(self.vocabularies, self.rasters, self.lengths)]
        self.told = nn.ModuleList(nn.Embedding(count, width) for count in counts)
        self.spread = nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.ModuleList(GatedLayer(width, kernel, first=i == 0, dropout=dropout) for i in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, num_codes, 1))

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        heard = self.hear(condition, tuple(codes.shape[1:]))
        x = self.table(codes).permute(0, 3, 1, 2)
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, heard)
        return self.head(horizontal).permute(0, 2, 3, 1)

    def hear(self, condition: Condition, grid: tuple[int, int]) -> Tensor:
        """The condition at every code: (B, width, h, w)."""
        said = [(part.vocabulary, part.grid is not None) for part in condition]
        known = list(zip(self.vocabularies, self.rasters))
        if said != known or any(not part.grid and part.tokens.shape[1] != n for part, n in zip(condition, self.lengths)):
            raise UserError(f"the condition has (vocabulary, is a raster) {said}, but this prior knows {known}; was it trained with another conditioner?")
        count = len(condition[0].tokens)
        heard = torch.zeros(count, self.table.embedding_dim, *grid, device=condition[0].tokens.device)
        for part, table in zip(condition, self.told):
            if part.grid:
                picture = table(part.tokens).unflatten(1, part.grid).permute(0, 3, 1, 2)
                heard = heard + self.spread(F.interpolate(picture, grid, mode="nearest"))
            else:
                places = torch.arange(part.tokens.shape[1], device=part.tokens.device) * (part.vocabulary + 1)
                heard = heard + table(part.tokens + places).sum(dim=1)[..., None, None]
        return heard


class GatedLayer(nn.Module):
    """Paper, figure 2. `first`: the horizontal stack must not see the code that it is to predict."""

    def __init__(self, width: int, kernel: int, first: bool, dropout: float):
        super().__init__()
        self.kernel, self.first = kernel, first
        above, left = kernel // 2 + 1, kernel // 2 + (0 if first else 1)
        self.vertical = nn.Conv2d(width, 2 * width, (above, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, max(left, 1)))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.hear_vertical, self.hear_horizontal = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vertical: Tensor, horizontal: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        side = self.kernel // 2
        v = self.vertical(F.pad(vertical, (side, side, side, 0)))  # at row i: rows up to i
        from_above = self.across(F.pad(v, (0, 0, 1, 0))[:, :, :-1])  # rows before i
        reach = self.horizontal.kernel_size[1]
        if self.first:
            h = self.horizontal(F.pad(horizontal, (reach, 0))[..., :-1])  # columns before j
        else:
            h = self.horizontal(F.pad(horizontal, (reach - 1, 0)))  # up to j, where j holds what is known of the codes before it
        h = self.out(self.dropout(_gate(h + from_above + self.hear_horizontal(heard))))
        return _gate(v + self.hear_vertical(heard)), h if self.first else horizontal + h


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()
