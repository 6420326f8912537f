"""What the priors of attention share, causal or not: tables, a drawer of blocks, a norm and a head
(Vaswani et al. 2017, arXiv 1706.03762).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage.block import (
    Block,
    BlockOptions,
    LayerCache,
    Linear,
    initialise,
    make_norm,
    rotation_of,
    start_alike,
)
from taming.second_stage.condition_map import AddedCondition
from taming.second_stage.interface import Prior


class Transformer(Prior):
    """A prior whose `build` makes `tok_emb`, `pos_emb` and, where the condition is added, `added`,
    and then calls `build_network`.
    """

    tok_emb: nn.Embedding
    added: AddedCondition

    def set_widths(
        self, layers: int, heads: int, width: int, dropout: float, options: BlockOptions
    ) -> None:
        """Raises ValueError where heads and width don't fit."""
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        if options.rotary and width // heads % 4:
            raise ValueError(
                f"rotary positions need heads of a multiple of 4 numbers, not {width} / {heads}"
            )
        self.layers, self.heads, self.width = layers, heads, width
        self.dropout, self.block_options = dropout, options

    def build_network(self, logits: int) -> None:
        """Blocks, norm and head, and the random numbers of all weights."""
        self.drop = nn.Dropout(self.dropout)
        self.blocks = nn.ModuleList(self.make_block() for _ in range(self.layers))
        self.ln_f = make_norm(self.width, self.block_options)
        self.head = Linear(self.width, logits, bias=False)
        self.apply(initialise)

    def make_block(self) -> Block:
        return Block(self.width, self.heads, self.dropout, self.block_options)

    def start_from(self, codebook: Tensor) -> None:
        start_alike(self.tok_emb, codebook, seed=0)
        start_alike(self.head, codebook, seed=1)

    def start_from_zero(self) -> None:
        """Where the options say so, and what is added in any case."""
        for block in self.blocks if self.block_options.zero_init else ():
            assert isinstance(block, Block)
            block.start_from_zero()
        if hasattr(self, "added"):
            self.added.start_from_zero()

    def run_blocks(
        self,
        x: Tensor,
        added: Sequence[Tensor],
        rotation: Tensor | None,
        caches: list[LayerCache] | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """The network between embedding and final norm.

        Args:
            x: (B, T, width), what is read.
            added: to x, before the blocks that `self.added.places` names; empty: nothing is.
            rotation: of the T tokens.
            caches: of each block, of what was read before.
            states: where what comes out of each block is put.
        """
        for i, block in enumerate(self.blocks):
            if added and i in self.added.places:
                x = x + added[self.added.places.index(i)]
            x = block(x, caches[i] if caches else None, rotation)
            if states is not None:
                states.append(x)
        return x

    def can_step(self, x: Tensor) -> bool:
        """Whether `step` may take the place of `run_blocks`: on CPUs in float32, while packed."""
        if x.shape[1] != 1 or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        return all(isinstance(block, Block) and block.can_step for block in self.blocks)

    @property
    def packed_weight(self) -> Tensor | None:
        """Of the first layer, which stands for all."""
        block = self.blocks[0]
        layer = block.attn.qkv if isinstance(block, Block) else None
        return layer.packed if isinstance(layer, Linear) else None

    def step(
        self, x: Tensor, added: Sequence[Tensor], turn: Tensor | None, caches: list[LayerCache]
    ) -> Tensor:
        """As `run_blocks` does for one more token x (B, 1, width), to the bit."""
        for i, block in enumerate(self.blocks):
            if added and i in self.added.places:
                x = x + added[self.added.places.index(i)]
            assert isinstance(block, Block)
            x = block.step(x, caches[i], turn)
        return x

    def turned(self, places: Tensor) -> Tensor:
        """The rotation (T, d / 2, 2) of tokens at `places` (T, 2)."""
        return rotation_of(places, self.width // self.heads, self.block_options.rotary_base)

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Raises UserError for a grid that is larger than the trained one."""
        if grid[0] > self.grid[0] or grid[1] > self.grid[1]:
            raise UserError(
                f"a grid of {grid[0]}x{grid[1]} codes is larger than the"
                f" {self.grid[0]}x{self.grid[1]} that this prior was trained on"
            )


def corner(raster: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The upper left part of positions (1, h w, width)."""
    return raster.unflatten(1, trained)[:, : grid[0], : grid[1]].flatten(1, 2)
