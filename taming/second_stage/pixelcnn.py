"""Gated PixelCNN: a prior over code grids by causal convolutions (van den Oord et al. 2016, arXiv
1606.05328).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.second_stage.condition_map import ConditionMap
from taming.second_stage.interface import Condition, Prior


class GatedPixelCNN(Prior):
    """Two stacks of convolutions: the vertical one sees all rows above, the horizontal one the
    codes to the left and, through the vertical one, all above: no blind spot. Causality comes from
    padding and shifting, not from masked weights. Codes go in as vectors of a table and come out as
    K logits.

    grid, parts: as GPT's; rasters of the condition are laid over the codes, all other tokens are
    heard everywhere. Any grid can be read, also larger ones. kernel: odd, of every layer.
    """

    def __init__(
        self,
        num_codes: int,
        grid: list[int],
        parts: list[dict],
        layers: int,
        width: int,
        kernel: int = 5,
        dropout: float = 0.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} should be odd")
        self.num_codes, self.grid = num_codes, (int(grid[0]), int(grid[1]))
        self.table = nn.Embedding(num_codes, width)
        self.heard = ConditionMap(parts, width)
        self.layers = nn.ModuleList(
            GatedLayer(width, kernel, first=i == 0, dropout=dropout) for i in range(layers)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, num_codes, 1)
        )

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        heard = self.heard(condition, tuple(codes.shape[1:]))
        x = self.table(codes).permute(0, 3, 1, 2)
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal, heard)
        return self.head(horizontal).permute(0, 2, 3, 1)

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> "RowDecoder":
        return RowDecoder(self, condition, grid)


class GatedLayer(nn.Module):
    """Paper, figure 2. `first`: the horizontal stack must not see the code that it is to predict."""

    def __init__(self, width: int, kernel: int, first: bool, dropout: float):
        super().__init__()
        self.kernel, self.first = kernel, first
        above, left = kernel // 2 + 1, kernel // 2 + (0 if first else 1)
        self.vertical = nn.Conv2d(width, 2 * width, (above, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, max(left, 1)))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.hear_vertical, self.hear_horizontal = (
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(width, 2 * width, 1),
        )
        self.out = nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vertical: Tensor, horizontal: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        side = self.kernel // 2
        v = self.vertical(F.pad(vertical, (side, side, side, 0)))  # at row i: rows up to i
        from_above = self.across(F.pad(v, (0, 0, 1, 0))[:, :, :-1])  # rows before i
        reach = self.horizontal.kernel_size[1]
        if self.first:
            before = F.pad(horizontal, (reach, 0))[..., :-1]  # columns before j
        else:
            # Up to j, where j holds what is known of the codes before it
            before = F.pad(horizontal, (reach - 1, 0))
        h = self._joined(self.horizontal(before), from_above, heard)
        return _gate(v + self.hear_vertical(heard)), h if self.first else horizontal + h

    def row(self, rows: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """What the row below one hears from above (B, 2 width, 1, w), and the vertical stack's next
        layer in it, from its inputs in the rows up to this one (B, width, kernel // 2 + 1, w).
        """
        side = self.kernel // 2
        v = self.vertical(F.pad(rows, (side, side)))
        return self.across(v), _gate(v + self.hear_vertical(heard))

    def place(self, before: Tensor, from_above: Tensor, heard: Tensor) -> Tensor:
        """The horizontal stack at one place, from its inputs in the columns that it reaches (B,
        width, 1, reach).
        """
        h = self._joined(self.horizontal(before), from_above, heard)
        return h if self.first else before[..., -1:] + h

    def _joined(self, horizontal: Tensor, from_above: Tensor, heard: Tensor) -> Tensor:
        return self.out(self.dropout(_gate(horizontal + from_above + self.hear_horizontal(heard))))


class RowDecoder:
    """Code after code. The vertical stack is computed once per row, when the row above is complete,
    from the few rows that its kernels reach; the horizontal one at each place from the few columns
    to the left.
    """

    def __init__(self, prior: GatedPixelCNN, condition: Condition, grid: tuple[int, int]):
        self.prior, self.grid, self.position, self.done = prior, grid, 0, 0
        self.heard = prior.heard(condition, grid)
        count, width = self.heard.shape[:2]
        zeros = partial(torch.zeros, device=self.heard.device, dtype=self.heard.dtype)
        self.codes = zeros(count, grid[0] * grid[1]).long()
        self.rows = [
            zeros(count, width, layer.vertical.kernel_size[0], grid[1]) for layer in prior.layers
        ]
        # The first row hears no row
        self.from_above = [
            layer.across.bias[None, :, None, None].expand(count, -1, 1, grid[1])
            for layer in prior.layers
        ]
        self.reach = [layer.horizontal.kernel_size[1] for layer in prior.layers]
        self.columns = [zeros(count, width, 1, grid[1] + reach) for reach in self.reach]

    @torch.no_grad()
    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        while self.done <= self.position:
            self.next = self._step(self.done)
            self.done += 1
        return self.next

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        self.codes[:, self.position : self.position + codes.shape[1]] = codes
        self.position += codes.shape[1]

    def _step(self, position: int) -> Tensor:
        row, column = divmod(position, self.grid[1])
        if column == 0 and row:
            self._finish(row - 1)
        elif column:
            self.columns[0][:, :, 0, self.reach[0] + column - 1] = self.prior.table(
                self.codes[:, position - 1]
            )
        heard = self.heard[:, :, row : row + 1, column : column + 1]
        h = None
        for i, layer in enumerate(self.prior.layers):
            kept, reach = self.columns[i], self.reach[i]
            if i:
                kept[..., reach + column : reach + column + 1] = h
            seen = (
                kept[..., column : column + reach]
                if layer.first
                else kept[..., column + 1 : column + 1 + reach]
            )
            h = layer.place(seen, self.from_above[i][..., column : column + 1], heard)
        return self.prior.head(h)[:, :, 0, 0]

    def _finish(self, row: int) -> None:
        """This row's codes are all known: what the next one hears from above."""
        v = self.prior.table(
            self.codes[:, row * self.grid[1] : (row + 1) * self.grid[1]]
        ).transpose(1, 2)[:, :, None]
        for i, layer in enumerate(self.prior.layers):
            self.rows[i] = torch.cat([self.rows[i][:, :, 1:], v], dim=2)
            self.from_above[i], v = layer.row(self.rows[i], self.heard[:, :, row : row + 1])
            self.columns[i].zero_()


def _gate(x: Tensor) -> Tensor:
    value, gate = x.chunk(2, dim=1)
    return value.tanh() * gate.sigmoid()
