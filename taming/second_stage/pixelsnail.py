"""PixelSNAIL: a prior over code grids that alternates causal convolutions with attention over
everything before (Chen et al. 2017, arXiv 1712.09763; over the codes of a hierarchy: Razavi et al.
2019, arXiv 1906.00446, section 3.2).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.second_stage.condition_map import ConditionMap
from taming.second_stage.interface import Condition, Prior


class PixelSNAIL(Prior):
    """Codes are read one place late, in raster order, so at every place stands the code before it;
    from there on each layer may see its own place and all that come before. (Where layers leave
    their own place out instead, a row's first places never see the end of the row above.)

    grid, parts: as GPT's; rasters of the condition are laid over the codes, all other tokens are
    heard everywhere. blocks: each of `layers` gated residual convolutions and one attention of
    `heads` heads; heads 0 leaves attention out, as in the lower levels of VQ-VAE-2: a code then
    sees only the cone above it, kernel // 2 columns more to the right with every row up. kernel:
    odd. condition_blocks: residual blocks that read the rasters of the condition first.
    """

    def __init__(
        self,
        num_codes: int,
        grid: list[int],
        parts: list[dict],
        blocks: int,
        layers: int,
        width: int,
        heads: int = 1,
        kernel: int = 5,
        condition_blocks: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} should be odd")
        if heads and width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.num_codes, self.grid, self.width = num_codes, (int(grid[0]), int(grid[1])), width
        self.table = nn.Embedding(num_codes, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.heard = ConditionMap(parts, width, condition_blocks)
        self.blocks = nn.ModuleList(
            Block(width, layers, heads, kernel, dropout) for _ in range(blocks)
        )
        self.head = nn.Sequential(nn.ELU(), nn.Conv2d(width, num_codes, 1))

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        grid = (codes.shape[1], codes.shape[2])
        late = torch.cat(
            [self.start.expand(len(codes), 1, -1), self.table(codes.flatten(1)[:, :-1])], dim=1
        )
        x = seen = late.transpose(1, 2).unflatten(2, grid)
        heard, place = self.heard(condition, grid), coordinates(grid, self.grid, codes.device)
        for block in self.blocks:
            x = block(x, seen, heard, place)
        return self.head(x).permute(0, 2, 3, 1)

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> "PlaceDecoder":
        return PlaceDecoder(self, condition, grid)


def coordinates(grid: tuple[int, int], trained: tuple[int, int], device: torch.device) -> Tensor:
    """(1, 2, h, w): row and column, from -0.5 to 0.5 over the grid trained on."""
    rows, columns = (
        torch.arange(n, device=device) / max(1, t - 1) - 0.5 for n, t in zip(grid, trained)
    )
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


class Block(nn.Module):
    """Paper, figure 3."""

    def __init__(self, width: int, layers: int, heads: int, kernel: int, dropout: float):
        super().__init__()
        self.layers = nn.ModuleList(GatedResidual(width, kernel, dropout) for _ in range(layers))
        self.attention = Attention(width, heads) if heads else None
        self.out = Mix(width, 2 if heads else 1)

    def forward(self, x: Tensor, seen: Tensor, heard: Tensor, place: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, heard)
        return self.out(x, [x] if self.attention is None else [x, self.attention(x, seen, place)])


class CausalConv(nn.Module):
    """Sees its own place, those to the left, and the rows above; by padding, not by masked weights."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.side = kernel // 2
        self.above = nn.Conv2d(channels_in, channels_out, (self.side, kernel), bias=False)
        self.left = nn.Conv2d(channels_in, channels_out, (1, self.side + 1))

    def forward(self, x: Tensor) -> Tensor:
        side = self.side
        return self.above(F.pad(x, (side, side, side, 0))[:, :, :-1]) + self.left(
            F.pad(x, (side, 0))
        )

    def step(self, x: Tensor, kept: "Kept", row: int, column: int) -> Tensor:
        """The same at one place: x (B, C, 1, 1) there."""
        side, padded = self.side, kept.put(x, row, column, self.side)
        above = padded[:, :, row : row + side, column : column + 2 * side + 1]
        left = padded[:, :, row + side : row + side + 1, column : column + side + 1]
        return self.above(above) + self.left(left)


class Kept:
    """The inputs of one layer so far, with a margin of zeros."""

    def __init__(self, grid: tuple[int, int]):
        self.grid, self.values = grid, None

    def put(self, x: Tensor, row: int, column: int, side: int) -> Tensor:
        if self.values is None:
            self.values = x.new_zeros(
                x.shape[0], x.shape[1], self.grid[0] + side, self.grid[1] + 2 * side
            )
        self.values[:, :, row + side, column + side] = x[:, :, 0, 0]
        return self.values


class GatedResidual(nn.Module):
    """x + gate(conv(ELU(conv(ELU(x)) + what is heard)))"""

    def __init__(self, width: int, kernel: int, dropout: float):
        super().__init__()
        self.conv = CausalConv(width, width, kernel)
        self.hear = nn.Conv2d(width, width, 1)
        self.gated = CausalConv(width, 2 * width, kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        h = self.dropout(F.elu(self.conv(F.elu(x)) + self.hear(heard)))
        return x + F.glu(self.gated(h), dim=1)

    def step(
        self, x: Tensor, heard: Tensor, kept: tuple[Kept, Kept], row: int, column: int
    ) -> Tensor:
        h = F.elu(self.conv.step(F.elu(x), kept[0], row, column) + self.hear(heard))
        return x + F.glu(self.gated.step(h, kept[1], row, column), dim=1)


class Attention(nn.Module):
    """Queries from the features; keys and values from features, codes and coordinates."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(width + 2, width, 1)
        self.key_value = nn.Conv2d(2 * width + 2, 2 * width, 1)

    def split(self, x: Tensor, seen: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, places, d)."""
        place = place.expand(len(x), -1, -1, -1)
        q, k, v = (
            self.query(torch.cat([x, place], 1)),
            *self.key_value(torch.cat([x, seen, place], 1)).chunk(2, dim=1),
        )
        return tuple(t.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3) for t in (q, k, v))

    def forward(self, x: Tensor, seen: Tensor, place: Tensor) -> Tensor:
        q, k, v = self.split(x, seen, place)
        return (
            F.scaled_dot_product_attention(q, k, v, is_causal=True)
            .transpose(2, 3)
            .flatten(1, 2)
            .unflatten(2, x.shape[2:])
        )


class Mix(nn.Module):
    """x + gate of a 1x1 convolution of all of `others`."""

    def __init__(self, width: int, others: int):
        super().__init__()
        self.conv = nn.Conv2d(others * width, 2 * width, 1)

    def forward(self, x: Tensor, others: list[Tensor]) -> Tensor:
        return x + F.glu(self.conv(F.elu(torch.cat(others, dim=1))), dim=1)


class PlaceDecoder:
    """Code after code; every layer keeps its inputs, attention its keys and values, so that only
    the new place is computed.
    """

    def __init__(self, prior: PixelSNAIL, condition: Condition, grid: tuple[int, int]):
        self.prior, self.grid, self.position, self.done = prior, grid, 0, 0
        self.heard = prior.heard(condition, grid)
        self.place = coordinates(grid, prior.grid, self.heard.device)
        self.codes = torch.zeros(
            len(self.heard), math.prod(grid), dtype=torch.int64, device=self.heard.device
        )
        self.kept = [[(Kept(grid), Kept(grid)) for _ in block.layers] for block in prior.blocks]
        self.memory: list = [None] * len(prior.blocks)

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
        before = (
            self.prior.start.expand(len(self.codes), -1)
            if position == 0
            else self.prior.table(self.codes[:, position - 1])
        )
        x = seen = before[:, :, None, None]
        heard, place = (
            t[:, :, row : row + 1, column : column + 1] for t in (self.heard, self.place)
        )
        for i, block in enumerate(self.prior.blocks):
            for layer, kept in zip(block.layers, self.kept[i]):
                x = layer.step(x, heard, kept, row, column)
            x = block.out(
                x,
                [x] if block.attention is None else [x, self._attend(i, x, seen, place, position)],
            )
        return self.prior.head(x)[:, :, 0, 0]

    def _attend(self, i: int, x: Tensor, seen: Tensor, place: Tensor, position: int) -> Tensor:
        q, k, v = self.prior.blocks[i].attention.split(x, seen, place)
        if self.memory[i] is None:
            self.memory[i] = k.new_empty(2, *k.shape[:2], math.prod(self.grid), k.shape[3])
        self.memory[i][0, :, :, position], self.memory[i][1, :, :, position] = (
            k[:, :, 0],
            v[:, :, 0],
        )
        keys, values = self.memory[i][:, :, :, : position + 1]
        return (
            F.scaled_dot_product_attention(q, keys, values).transpose(2, 3).flatten(1, 2)[..., None]
        )
