"""The published Transformer: as GPT, but for what only its checkpoints need."""

import torch
from torch import Tensor, nn

from taming.config.ranges import Count, Decay, Index
from taming.second_stage.block import Block
from taming.second_stage.gpt import GPT, OrderName
from taming.second_stage.interface import Condition, Depth, Grid, NumCodes, Parts, Width


class CompVisGPT(GPT):
    """A GPT whose condition and codes share one table of embeddings, so that there is no null
    condition; positions start from zero.

    Args:
        layers: blocks of attention and MLP.
        heads: of each attention; they divide the width.
        width: of the vectors at each place.
        shared_vocabulary: entries of the table, and the number of logits; at least the codes and
            each vocabulary of the condition.
        dropout: of embeddings and of the residual branches.
        order: in which codes are read; see orders.py.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on.
        parts: the shape of the condition, see GPT.
        attention_dropout: of the weights of attention.
        positions: length of the table of positions, if not that of condition and codes.
        unmasked: so many tokens of the condition see each other whatever their order.
    """

    def __init__(
        self,
        layers: Depth,
        heads: Depth,
        width: Width,
        shared_vocabulary: Count,
        dropout: Decay = 0.0,
        order: OrderName = "raster",
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
        attention_dropout: Decay = 0.0,
        positions: Count | None = None,
        unmasked: Index = 0,
    ):
        super().__init__(layers, heads, width, dropout, order)
        self.shared_vocabulary, self.positions = shared_vocabulary, positions
        self.attention_dropout, self.unmasked = attention_dropout, unmasked
        self.knows_null = False
        self.set_shape(num_codes, grid, parts)

    def make_tables(self) -> None:
        vocabularies = [part.vocabulary for part in self.parts]
        if max(self.num_codes, *vocabularies) > self.shared_vocabulary:
            raise ValueError(
                f"shared_vocabulary {self.shared_vocabulary} should hold the {self.num_codes} codes"
                f" and condition vocabularies {vocabularies}"
            )
        self.tok_emb = nn.Embedding(self.shared_vocabulary, self.width)

    def embed_tokens(self, condition: Condition) -> Tensor:
        return self.tok_emb(torch.cat([part.tokens for part in condition], dim=1))

    def count_positions(self) -> int:
        length = super().count_positions()
        if self.positions is not None and self.positions < length - 1:  # the last code is not read
            raise ValueError(
                f"positions {self.positions} should be at least {length - 1}: the condition's"
                f" {self.condition_length} and the grid's, but for its last code"
            )
        return self.positions or length

    def start_positions(self) -> None:
        """They are zeros already."""

    def make_block(self) -> Block:
        if self.unmasked > self.condition_length:
            raise ValueError(
                f"unmasked {self.unmasked} should not exceed the condition's"
                f" {self.condition_length} tokens: codes would see codes after them"
            )
        block = super().make_block()
        block.attn.attention_dropout, block.attn.unmasked = self.attention_dropout, self.unmasked
        return block
