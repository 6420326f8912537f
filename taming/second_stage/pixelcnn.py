"""Gated PixelCNN: a prior over code grids by causal convolutions (van den Oord et al. 2016, arXiv
1606.05328).
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Decay
from taming.second_stage.condition_map import ConditionMap
from taming.second_stage.interface import (
    Condition,
    Decoder,
    Depth,
    Grid,
    Kernel,
    NumCodes,
    Parts,
    Prior,
    Width,
)
from taming.second_stage.stepping import SteppingDecoder


class GatedPixelCNN(Prior):
    """Two stacks of convolutions: the vertical one sees all rows above, the horizontal one the
    codes to the left and, through the vertical one, all above: no blind spot. Causality comes from
    padding and shifting, not from masked weights. Codes go in as vectors of a table and come out as
    K logits. Any grid can be read, also larger ones than the one trained on.

    Args:
        layers: of each stack.
        width: of the vectors at each place.
        kernel: side of the convolutions in every layer, odd.
        dropout: of the horizontal stack's residual branches.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition, {vocabulary: V, grid: [h, w]} for a raster, which is laid
            over the codes, else {vocabulary: V, length: M}, added everywhere.
    """

    def __init__(
        self,
        layers: Depth,
        width: Width,
        kernel: Kernel = 5,
        dropout: Decay = 0.0,
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} should be odd")
        self.depth, self.width, self.kernel, self.dropout = layers, width, kernel, dropout
        self.set_shape(num_codes, grid, parts)

    def build(self) -> None:
        width = self.width
        self.table = nn.Embedding(self.num_codes, width)
        self.condition_map = ConditionMap(self.parts, width)
        self.layers = nn.ModuleList(
            GatedLayer(width, self.kernel, first=i == 0, dropout=self.dropout)
            for i in range(self.depth)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, self.num_codes, 1)
        )

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        context = self.condition_map(condition, (codes.shape[1], codes.shape[2]))
        vertical = horizontal = self.table(codes).permute(0, 3, 1, 2)
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, context)
        return self.head(horizontal).permute(0, 2, 3, 1)

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> Decoder:
        return RowDecoder(self, condition, grid)


class GatedLayer(nn.Module):
    """Paper, figure 2. The horizontal stack of the `first` layer must not see the code that it is
    to predict.
    """

    def __init__(self, width: int, kernel: int, first: bool, dropout: float):
        super().__init__()
        self.kernel, self.first = kernel, first
        above, beside = kernel // 2 + 1, kernel // 2 + (0 if first else 1)
        self.vertical = nn.Conv2d(width, 2 * width, (above, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, max(beside, 1)))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.condition_vertical = nn.Conv2d(width, 2 * width, 1)
        self.condition_horizontal = nn.Conv2d(width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, vertical: Tensor, horizontal: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        side = self.kernel // 2
        v = self.vertical(F.pad(vertical, (side, side, side, 0)))  # at row i: rows up to i
        from_above = self.across(F.pad(v, (0, 0, 1, 0))[:, :, :-1])  # rows before i
        reach = self.horizontal.kernel_size[1]
        if self.first:
            before = F.pad(horizontal, (reach, 0))[..., :-1]  # columns before j
        else:
            # Up to j, where j holds what comes of the codes before it
            before = F.pad(horizontal, (reach - 1, 0))
        h = self._joined(self.horizontal(before), from_above, context)
        gated = _gate(v + self.condition_vertical(context))
        return gated, h if self.first else horizontal + h

    def row(self, rows: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What the row below one gets from above (B, 2 width, 1, w), and the vertical stack's next
        layer in it, from its inputs in the rows up to this one (B, width, kernel // 2 + 1, w).
        """
        side = self.kernel // 2
        v = self.vertical(F.pad(rows, (side, side)))
        return self.across(v), _gate(v + self.condition_vertical(context))

    def place(self, before: Tensor, from_above: Tensor, context: Tensor) -> Tensor:
        """The horizontal stack at one place, from its inputs in the columns that it reaches (B,
        width, 1, reach).
        """
        h = self._joined(self.horizontal(before), from_above, context)
        return h if self.first else before[..., -1:] + h

    def _joined(self, horizontal: Tensor, from_above: Tensor, context: Tensor) -> Tensor:
        joined = horizontal + from_above + self.condition_horizontal(context)
        return self.out(self.dropout(_gate(joined)))


class RowDecoder(SteppingDecoder):
    """Code after code. The vertical stack is computed once per row, when the row above is complete,
    from the few rows that its kernels reach; the horizontal one at each place from the few columns
    to the left.
    """

    def __init__(self, prior: GatedPixelCNN, condition: Condition, grid: tuple[int, int]):
        self.prior, self.context = prior, prior.condition_map(condition, grid)
        self.layers = cast(list[GatedLayer], list(prior.layers))
        count, width = self.context.shape[:2]
        super().__init__(count, grid, self.context.device)
        zeros = partial(torch.zeros, device=self.context.device, dtype=self.context.dtype)
        # Inputs of each layer: in the last rows, and in this row with a margin on the left
        self.rows, self.columns, self.reach, self.from_above = [], [], [], []
        for layer in self.layers:
            reach = layer.horizontal.kernel_size[1]
            self.reach.append(reach)
            self.rows.append(zeros(count, width, layer.vertical.kernel_size[0], grid[1]))
            self.columns.append(zeros(count, width, 1, grid[1] + reach))
            # Nothing lies above the first row
            assert layer.across.bias is not None
            bias = layer.across.bias[None, :, None, None]
            self.from_above.append(bias.expand(count, -1, 1, grid[1]))

    def step(self, position: int) -> Tensor:
        row, column = divmod(position, self.grid[1])
        # 1. what the code before this one adds: a whole row, or one more column
        if column == 0 and row:
            self._finish(row - 1)
        elif column:
            vector = self.prior.table(self.codes[:, position - 1])
            self.columns[0][:, :, 0, self.reach[0] + column - 1] = vector
        # 2. the horizontal stack at this place, layer by layer
        context = self.context[:, :, row : row + 1, column : column + 1]
        h = torch.empty(0)
        for i, layer in enumerate(self.layers):
            inputs, reach = self.columns[i], self.reach[i]
            if i:
                inputs[..., reach + column : reach + column + 1] = h
            start = column if layer.first else column + 1
            from_above = self.from_above[i][..., column : column + 1]
            h = layer.place(inputs[..., start : start + reach], from_above, context)
        return self.prior.head(h)[:, :, 0, 0]

    def _finish(self, row: int) -> None:
        """All codes of this row are there: what the next one gets from above."""
        codes = self.codes[:, row * self.grid[1] : (row + 1) * self.grid[1]]
        v = self.prior.table(codes).transpose(1, 2)[:, :, None]
        for i, layer in enumerate(self.layers):
            self.rows[i] = torch.cat([self.rows[i][:, :, 1:], v], dim=2)
            self.from_above[i], v = layer.row(self.rows[i], self.context[:, :, row : row + 1])
            self.columns[i].zero_()


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()
