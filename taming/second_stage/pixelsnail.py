"""PixelSNAIL: a prior over code grids that alternates causal convolutions with attention over
everything before (Chen et al. 2017, arXiv 1712.09763; over the codes of a hierarchy: Razavi et al.
2019, arXiv 1906.00446, section 3.2).
"""

import math
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.attention import attend
from taming.config.ranges import Decay, Range
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

Few = Annotated[int, Range(0, 1024)]


class PixelSNAIL(Prior):
    """Codes are read one place late, in raster order, so at every place stands the code before it;
    from there on each layer may see its own place and all that come before. (Where layers leave
    their own place out instead, a row's first places never see the end of the row above.)

    Args:
        blocks: each of `layers` gated residual convolutions and one attention.
        layers: of each block.
        width: of the vectors at each place.
        heads: of the attention; 0 leaves it out, as in the lower levels of VQ-VAE-2: a code then
            sees only the cone above it, kernel // 2 columns more to the right with every row up.
        kernel: side of the convolutions, odd and at least 3.
        condition_blocks: residual blocks that read the rasters of the condition first.
        dropout: of the residual branches.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition, {vocabulary: V, grid: [h, w]} for a raster, which is laid
            over the codes, else {vocabulary: V, length: M}, added everywhere.
    """

    def __init__(
        self,
        blocks: Depth,
        layers: Depth,
        width: Width,
        heads: Few = 1,
        kernel: Kernel = 5,
        condition_blocks: Few = 0,
        dropout: Decay = 0.0,
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        if kernel % 2 == 0 or kernel < 3:
            raise ValueError(f"kernel {kernel} should be odd and at least 3")
        if heads and width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.depth, self.layers, self.width, self.heads = blocks, layers, width, heads
        self.kernel, self.condition_blocks, self.dropout = kernel, condition_blocks, dropout
        self.set_shape(num_codes, grid, parts)

    def build(self) -> None:
        width = self.width
        self.table = nn.Embedding(self.num_codes, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.condition_map = ConditionMap(self.parts, width, self.condition_blocks)
        self.blocks = nn.ModuleList(
            Block(width, self.layers, self.heads, self.kernel, self.dropout)
            for _ in range(self.depth)
        )
        self.head = nn.Sequential(nn.ELU(), nn.Conv2d(width, self.num_codes, 1))

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        grid = (codes.shape[1], codes.shape[2])
        late = torch.cat(
            [self.start.expand(len(codes), 1, -1), self.table(codes.flatten(1)[:, :-1])], dim=1
        )
        x = before = late.transpose(1, 2).unflatten(2, grid)
        context = self.condition_map(condition, grid)
        place = coordinates(grid, self.grid, codes.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, before, context, place)
        return self.head(x).permute(0, 2, 3, 1)

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> Decoder:
        return PlaceDecoder(self, condition, grid)

    def cache_bytes(self, count: int, grid: tuple[int, int]) -> int:
        """Keys and values of every block, float32."""
        return 8 * self.depth * self.width * math.prod(grid) * count


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

    def forward(self, x: Tensor, before: Tensor, context: Tensor, place: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, context)
        others = [x] if self.attention is None else [x, self.attention(x, before, place)]
        return self.out(x, others)


class CausalConv(nn.Module):
    """Sees its own place, those before it in its row, and the rows above; by padding, not by masked
    weights.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.side = kernel // 2
        self.above = nn.Conv2d(channels_in, channels_out, (self.side, kernel), bias=False)
        self.beside = nn.Conv2d(channels_in, channels_out, (1, self.side + 1))

    def forward(self, x: Tensor) -> Tensor:
        side = self.side
        above = self.above(F.pad(x, (side, side, side, 0))[:, :, :-1])
        return above + self.beside(F.pad(x, (side, 0)))

    def step(self, x: Tensor, inputs: "InputMap", row: int, column: int) -> Tensor:
        """The same at one place: x (B, C, 1, 1) there."""
        side, padded = self.side, inputs.put(x, row, column, self.side)
        above = padded[:, :, row : row + side, column : column + 2 * side + 1]
        beside = padded[:, :, row + side : row + side + 1, column : column + side + 1]
        return self.above(above) + self.beside(beside)


class InputMap:
    """The inputs of one layer so far, with a margin of zeros."""

    def __init__(self, grid: tuple[int, int]):
        self.grid = grid
        self.values: Tensor | None = None

    def put(self, x: Tensor, row: int, column: int, side: int) -> Tensor:
        if self.values is None:
            rows, columns = self.grid[0] + side, self.grid[1] + 2 * side
            self.values = x.new_zeros(x.shape[0], x.shape[1], rows, columns)
        self.values[:, :, row + side, column + side] = x[:, :, 0, 0]
        return self.values


class GatedResidual(nn.Module):
    """x + gate(conv(ELU(conv(ELU(x)) + condition)))"""

    def __init__(self, width: int, kernel: int, dropout: float):
        super().__init__()
        self.conv = CausalConv(width, width, kernel)
        self.condition = nn.Conv2d(width, width, 1)
        self.gated = CausalConv(width, 2 * width, kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.dropout(F.elu(self.conv(F.elu(x)) + self.condition(context)))
        return x + F.glu(self.gated(h), dim=1)

    def step(
        self, x: Tensor, context: Tensor, inputs: tuple[InputMap, InputMap], row: int, column: int
    ) -> Tensor:
        h = F.elu(self.conv.step(F.elu(x), inputs[0], row, column) + self.condition(context))
        return x + F.glu(self.gated.step(h, inputs[1], row, column), dim=1)


class Attention(nn.Module):
    """Queries from the features; keys and values from features, codes and coordinates."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Conv2d(width + 2, width, 1)
        self.key_value = nn.Conv2d(2 * width + 2, 2 * width, 1)

    def split(self, x: Tensor, before: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, places, d)."""
        place = place.expand(len(x), -1, -1, -1)
        q = self.query(torch.cat([x, place], 1))
        k, v = self.key_value(torch.cat([x, before, place], 1)).chunk(2, dim=1)
        return self._heads(q), self._heads(k), self._heads(v)

    def forward(self, x: Tensor, before: Tensor, place: Tensor) -> Tensor:
        q, k, v = self.split(x, before, place)
        attended = attend(q, k, v, causal=True)
        return attended.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])

    def _heads(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


class Mix(nn.Module):
    """x + gate of a 1x1 convolution of all of `others`."""

    def __init__(self, width: int, others: int):
        super().__init__()
        self.conv = nn.Conv2d(others * width, 2 * width, 1)

    def forward(self, x: Tensor, others: list[Tensor]) -> Tensor:
        return x + F.glu(self.conv(F.elu(torch.cat(others, dim=1))), dim=1)


class PlaceDecoder(SteppingDecoder):
    """Code after code; every layer keeps its inputs, attention its keys and values, so that only
    the new place is computed.
    """

    def __init__(self, prior: PixelSNAIL, condition: Condition, grid: tuple[int, int]):
        self.prior, self.context = prior, prior.condition_map(condition, grid)
        super().__init__(len(self.context), grid, self.context.device)
        self.blocks = cast(list[Block], list(prior.blocks))
        self.place = coordinates(grid, prior.grid, self.context.device).to(self.context.dtype)
        self.inputs: list[list[tuple[InputMap, InputMap]]] = []
        for block in self.blocks:
            self.inputs.append([(InputMap(grid), InputMap(grid)) for _ in block.layers])
        self.memory: list[Tensor | None] = [None] * len(self.blocks)

    def step(self, position: int) -> Tensor:
        prior, (row, column) = self.prior, divmod(position, self.grid[1])
        if position == 0:
            vector = prior.start.expand(len(self.codes), -1)
        else:
            vector = prior.table(self.codes[:, position - 1])
        x = before = vector[:, :, None, None]
        context = self.context[:, :, row : row + 1, column : column + 1]
        place = self.place[:, :, row : row + 1, column : column + 1]
        for i, block in enumerate(self.blocks):
            layers = cast(list[GatedResidual], list(block.layers))
            for layer, inputs in zip(layers, self.inputs[i]):
                x = layer.step(x, context, inputs, row, column)
            if block.attention is None:
                x = block.out(x, [x])
            else:
                x = block.out(x, [x, self._attend(i, x, before, place, position)])
        return prior.head(x)[:, :, 0, 0]

    def _attend(self, i: int, x: Tensor, before: Tensor, place: Tensor, position: int) -> Tensor:
        attention = self.blocks[i].attention
        assert attention is not None
        q, k, v = attention.split(x, before, place)
        memory = self.memory[i]
        if memory is None:
            memory = k.new_empty(2, *k.shape[:2], math.prod(self.grid), k.shape[3])
            self.memory[i] = memory
        memory[0, :, :, position], memory[1, :, :, position] = k[:, :, 0], v[:, :, 0]
        keys, values = memory[:, :, :, : position + 1]
        # A single query counts as contiguous whatever its strides, which GPUs refuse: a copy has
        # ordinary ones
        q = q.clone(memory_format=torch.contiguous_format)
        attended = F.scaled_dot_product_attention(q, keys, values)
        return attended.transpose(2, 3).flatten(1, 2)[..., None]
