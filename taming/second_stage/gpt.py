"""GPT over codebook indices: a decoder-only Transformer with a key/value cache (Radford et al.
2019; as the prior of VQ-GAN: Esser et al. 2021, section 3.2).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Decay
from taming.config.sampling import Fast
from taming.errors import UserError
from taming.second_stage import compiled, orders
from taming.second_stage.block import (
    BlockOptions,
    BlockParameters,
    LayerCache,
    Linear,
    SelfAttention,
    places_of,
    turns_of,
)
from taming.second_stage.condition_map import AddedCondition
from taming.second_stage.interface import (
    Condition,
    Decoder,
    Depth,
    Grid,
    NumCodes,
    Parts,
    PartShape,
    Width,
)
from taming.second_stage.orders import OrderName
from taming.second_stage.transformer import Transformer, corner


class GPT(Transformer):
    """Reads the condition's tokens, then the codes, by default in raster order.

    Condition and codes have tables of their own; each part of the condition has one id more, the
    null condition (guidance). Positions are learned, one vector per place. Rasters start from one
    two-dimensional sine code, so that a code and the mask token that lies over it begin with like
    positions: from zeros, short trainings learn to ignore the mask.

    A condition that is added instead of read first is laid over the codes, and each step gets what
    lies over the code to be drawn, before the first block and after one and two thirds of them (Li
    et al. 2024, arXiv 2410.02705). The sequence is shorter by the condition's tokens.

    Args:
        layers: blocks of attention and MLP.
        heads: of each attention; they divide the width.
        width: of the vectors at each place.
        dropout: of embeddings and of the residual branches.
        order: in which codes are read; see orders.py.
        block: {norm, mlp, qk_norm, rotary, zero_init, ...}, see block.BlockOptions.
        condition: read first, as a prefix, or added at each position.
        alike: codes that stand for like vectors start alike, which short trainings of many codes
            profit from.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition, {vocabulary: V, grid: [h, w]} for a raster aligned with
            the codes (a mask), else {vocabulary: V, length: M}.
    """

    def __init__(
        self,
        layers: Depth,
        heads: Depth,
        width: Width,
        dropout: Decay = 0.0,
        order: OrderName = "raster",
        block: BlockParameters = None,
        condition: Literal["prefix", "added"] = "prefix",
        alike: bool = False,
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        self.set_widths(layers, heads, width, dropout, BlockOptions.of(block))
        self.order_name, self.is_added, self.alike = order, condition == "added", alike
        self.set_shape(num_codes, grid, parts)

    permutation: Tensor | None
    steps_compiled = False  # while a sample is drawn

    def build(self) -> None:
        order = None
        if self.order_name != "raster":
            order = torch.tensor(orders.order(self.order_name, self.grid))
        if any(part.features for part in self.parts) and not self.is_added:
            raise ValueError(
                "a condition of numbers can't be read as a prefix; set condition: added"
            )
        self.make_tables()
        self.pos_emb = nn.Parameter(torch.zeros(1, self.count_positions(), self.width))
        self.build_network(self.tok_emb.num_embeddings)
        self.register_buffer("permutation", order)
        self.start_positions()
        self.start_from_zero()

    # What published models have otherwise (formats/compvis/gpt.py)

    def make_tables(self) -> None:
        """`tok_emb`, of codes, and `cond_emb`, of the condition."""
        self.tok_emb = nn.Embedding(self.num_codes, self.width)
        if self.is_added:
            self.start = nn.Parameter(torch.zeros(1, 1, self.width))
            self.target_emb = nn.Parameter(torch.zeros(1, math.prod(self.grid), self.width))
            self.added = AddedCondition(self.parts, self.width, self.layers)
            return
        count = sum(part.vocabulary + 1 for part in self.parts)
        self.cond_emb = nn.Embedding(count, self.width)

    def embed_tokens(self, condition: Condition) -> Tensor:
        """(B, M, width), without positions; every part has its own stretch of the table."""
        tokens, offset = [], 0
        for part in condition:
            tokens.append(part.tokens + offset)
            offset += part.vocabulary + 1
        return self.cond_emb(torch.cat(tokens, dim=1))

    def count_positions(self) -> int:
        """Entries of `pos_emb`: the condition's, then the codes'."""
        return self.condition_length + math.prod(self.grid)

    def start_positions(self) -> None:
        """Fills `pos_emb`, where it has memory."""
        if self.pos_emb.is_meta:
            return
        starts, parts = [], [] if self.is_added else self.parts
        for size in [*(part.size for part in parts), self.grid]:
            if isinstance(size, int):
                starts.append(torch.zeros(size, self.width))
            else:
                starts.append(sine_code(size, self.width))
        if self.permutation is not None:
            starts[-1] = starts[-1][self.permutation]
        with torch.no_grad():
            self.pos_emb.copy_(torch.cat(starts)[None])

    @property
    def condition_length(self) -> int:
        """Tokens of the condition, on the grid trained on, that are read before the codes."""
        if self.is_added:
            return 0
        return sum(part.length for part in self.parts)

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """As the seam says; with a shared vocabulary beyond the codes, logits of all of it."""
        return self.logits_and_states(codes, condition)[0]

    def logits_and_states(
        self,
        codes: Tensor,
        condition: Condition,
        order: Tensor | None = None,
        depths: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, h, w, K) and hidden states (B, h w, width) behind the blocks of these numbers,
        those in the order of reading: state i has read the codes before the i-th.

        Args:
            order: the places (h w,) in another order than the prior's own, where the condition is
                added, which says where the next code lies.
        """
        grid = (codes.shape[1], codes.shape[2])
        order = self.order(grid) if order is None else order
        prefix = self.embed_condition(condition)
        x = torch.cat([prefix, self.embed_codes(codes, order)[:, :-1]], dim=1)
        added = self.embed_added(condition, grid, order)
        states: list[Tensor] = []
        rotation = self.rotation(condition, grid, order)
        x = self.run_blocks(self.drop(x), added, rotation, states=states)
        start = prefix.shape[1] - 1
        logits = self.head(self.ln_f(x[:, start:]))
        if order is not None:
            logits = torch.empty_like(logits).index_copy_(1, order, logits)
        return logits.unflatten(1, grid), [states[depth][:, start:] for depth in depths]

    def embed_added(
        self, condition: Condition, grid: tuple[int, int], order: Tensor | None
    ) -> list[Tensor]:
        """What is added to the tokens at each of `self.added.places`, (B, h w, width) in the order
        in which codes are drawn; where each of them will lie comes with the first.
        """
        if not self.is_added:
            return []
        targets = corner(self.target_emb, self.grid, grid)
        first, *rest = [level.flatten(2).mT for level in self.added(condition, grid)]
        levels = [first + targets, *rest]
        return levels if order is None else [level[:, order] for level in levels]

    def rotation(
        self, condition: Condition, grid: tuple[int, int], order: Tensor | None
    ) -> Tensor | None:
        """Of the condition's tokens that are read, then of the codes, (M + h w, d / 2, 2)."""
        if not self.block_options.rotary:
            return None
        start = torch.zeros(1, 2)
        places = [start] if self.is_added else []
        for part in () if self.is_added else condition:
            size = part.tokens.shape[1]
            places.append(places_of(part.grid, grid) if part.grid else start.expand(size, 2))
        codes = places_of(grid)
        places.append(codes if order is None else codes[order.cpu()])
        # The last code is never read
        return self.turned(torch.cat(places)[:-1]).to(self.pos_emb.device)

    def order(self, grid: tuple[int, int]) -> Tensor | None:
        if self.permutation is not None and grid != self.grid:
            raise UserError(
                f"a prior that reads codes in its own order knows {self.grid[0]}x{self.grid[1]} of"
                f" them only, not {grid[0]}x{grid[1]}"
            )
        return self.permutation

    def decoder(
        self, condition: Condition, grid: tuple[int, int], order: Tensor | None = None
    ) -> Decoder:
        """Reads codes in the prior's order, or in another one, see `logits_and_states`."""
        return CachedDecoder(self, condition, grid, order)

    def cache_bytes(self, count: int, grid: tuple[int, int]) -> int:
        """Keys and values of every block, float32."""
        length = self.condition_length + math.prod(grid)
        return 8 * self.layers * self.width * length * count

    @contextmanager
    def decoding(self, fast: Fast = "off") -> Iterator[None]:
        """Packed for the time of a sample, not longer: a training step would leave the other layout
        stale. The head stays in full: it has few of the weights, and decides. Compiled steps read
        the weights as they are.
        """
        layers = [module for module in self.modules() if isinstance(module, Linear | SelfAttention)]
        if fast == "compile":
            layers = [self.head]
        self.steps_compiled = fast == "compile"
        try:
            for layer in layers:
                layer.pack("off" if layer is self.head else fast)
            yield
        finally:
            self.steps_compiled = False
            for layer in layers:
                layer.unpack()

    def embed_condition(self, condition: Condition) -> Tensor:
        """(B, M, width), positions included; a raster may be smaller than the trained one. Where
        the condition is added, the start token alone.
        """
        if self.is_added:
            return self.start.expand(len(condition[0].tokens), -1, -1)
        actual = [part.shape for part in condition]
        if len(actual) != len(self.parts) or not all(map(_within, actual, self.parts)):
            raise UserError(
                "the condition has (vocabulary, length or grid)"
                f" {[(part.vocabulary, part.size) for part in actual]}, but this prior knows"
                f" {[(part.vocabulary, part.size) for part in self.parts]}; was it trained with"
                " another conditioner?"
            )
        positions, start = [], 0
        for part, trained in zip(condition, self.parts):
            position = self.pos_emb[:, start : start + trained.length]
            start += trained.length
            if trained.grid and part.grid:
                position = corner(position, trained.grid, part.grid)
            positions.append(position)
        return self.embed_tokens(condition) + torch.cat(positions, dim=1)

    def embed_codes(self, codes: Tensor, order: Tensor | None = None) -> Tensor:
        """(B, h w, width) in this order, by default the prior's own, positions included; a smaller
        grid lies in the upper left corner of the trained one.
        """
        grid, flat = (codes.shape[1], codes.shape[2]), codes.flatten(1)
        order = self.order(grid) if order is None else order
        if order is not None:
            flat = flat[:, order]
        return self.tok_emb(flat) + self.read_positions(grid, order)

    def read_positions(self, grid: tuple[int, int], order: Tensor | None) -> Tensor:
        """(1, h w, width) of the codes in this order; those of a prior with an order of its own
        stand in that one.
        """
        positions = self.code_positions(grid)
        return positions if order is None or self.permutation is not None else positions[:, order]

    def code_positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, h w, width) of a grid that is no larger than the trained one."""
        self.check_grid(grid)
        start, count = self.condition_length, math.prod(self.grid)
        positions = self.pos_emb[:, start : start + count]
        if positions.shape[1] < count:
            # The last code is never read, so published tables may leave its position out
            positions = F.pad(positions, (0, 0, 0, 1))
        return corner(positions, self.grid, grid)


class CachedDecoder:
    """Code after code; what was read once is kept as keys and values, and what waits to be read is
    read in one pass when logits are asked for.
    """

    def __init__(
        self, prior: GPT, condition: Condition, grid: tuple[int, int], order: Tensor | None = None
    ):
        self.prior = prior
        order = prior.order(grid) if order is None else order
        self.positions = prior.read_positions(grid, order)
        self.waiting = [prior.embed_condition(condition)]
        self.added = prior.embed_added(condition, grid, order)
        self.rotation = prior.rotation(condition, grid, order)
        self.turns = None if self.rotation is None else turns_of(self.rotation)
        count, length, width = self.waiting[0].shape
        shape = (count, prior.heads, length + math.prod(grid), width // prior.heads)
        self.caches = [LayerCache(shape, self.waiting[0]) for _ in prior.blocks]
        self.packed: Tensor | None = None  # of the first layer, when `can_step` was found out
        self.can_step = False
        self.position = 0
        self.tokens = 0  # read, the condition's included

    @torch.no_grad()
    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        if self.waiting:
            x = torch.cat(self.waiting, dim=1)
            self.waiting = []
            start, end = self.tokens, self.tokens + x.shape[1]
            self.tokens = end
            added = [level[:, start:end] for level in self.added]
            rotation = None if self.rotation is None else self.rotation[start:end]
            if start and x.shape[1] == 1 and self.prior.steps_compiled:
                x = compiled.step(self.prior, x, added, rotation, self.caches)
            elif start and x.shape[1] == 1 and self.steps(x):
                turn = None if self.turns is None else self.turns[start]
                x = self.prior.step(x, added, turn, self.caches)
            else:
                x = self.prior.run_blocks(x, added, rotation, self.caches)
            # What is in the vocabulary, but no code, can't come next
            self.next = self.prior.head(self.prior.ln_f(x[:, -1]))[:, : self.prior.num_codes]
        return self.next

    def steps(self, x: Tensor) -> bool:
        """Whether `Transformer.step` computes the one token x; looked into once while packed."""
        if self.packed is not self.prior.packed_weight:
            self.packed = self.prior.packed_weight
            self.can_step = self.packed is not None and self.prior.can_step(x)
        return self.can_step

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        until = self.position + codes.shape[1]
        self.waiting.append(self.prior.tok_emb(codes) + self.positions[:, self.position : until])
        self.position = until


def sine_code(grid: tuple[int, int], width: int, scale: float = 0.03) -> Tensor:
    """(h w, width): sines and cosines of row and column, both measured from 0 to 1, so that rasters
    of different fineness over the same picture agree.
    """
    device = torch.get_default_device()
    with torch.device("cpu"):  # on the meta device powers load PyTorch's compiler, two seconds
        return _sine_code(grid, width, scale).to(device)


def _sine_code(grid: tuple[int, int], width: int, scale: float) -> Tensor:
    frequencies = math.pi * 2.0 ** torch.linspace(0, 4, max(1, width // 4))
    rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
    row_code, column_code = (
        torch.cat([(x[:, None] * frequencies).sin(), (x[:, None] * frequencies).cos()], dim=1)
        for x in (rows, columns)
    )
    code = torch.cat(
        [row_code[:, None].expand(-1, grid[1], -1), column_code[None].expand(grid[0], -1, -1)],
        dim=2,
    ).flatten(0, 1)
    return scale * F.pad(code, (0, width - code.shape[1]))[:, :width]


def _within(actual: PartShape, trained: PartShape) -> bool:
    """Equal lengths, or a grid that is no larger."""
    if actual.vocabulary != trained.vocabulary:
        return False
    if actual.grid is None or trained.grid is None:
        return actual.size == trained.size
    return actual.grid[0] <= trained.grid[0] and actual.grid[1] <= trained.grid[1]
