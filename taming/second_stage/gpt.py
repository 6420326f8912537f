"""GPT over codebook indices: a decoder-only Transformer with a key/value cache (Radford et al.
2019; as the prior of VQ-GAN: Esser et al. 2021, section 3.2).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.errors import UserError
from taming.second_stage import orders as permuters
from taming.second_stage.interface import Condition, Prior


class Linear(nn.Linear):
    """A linear layer that, while packed, multiplies in oneDNN's own layout: on CPUs a step of
    decoding is bound by reading the weights, and so it reads them up to 1.7 times as fast
    (docs/sampling.md).
    """

    packed: Tensor | None = None

    def pack(self) -> None:
        if (
            self.weight.device.type == "cpu"
            and self.weight.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        ):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.packed is None
            or x.dtype != torch.float32
            or torch.is_autocast_enabled(x.device.type)
        ):
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class SelfAttention(nn.Module):
    """Causal, but that the first `unmasked` tokens see each other."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        attention_dropout: float = 0.0,
        unmasked: int = 0,
    ):
        super().__init__()
        self.heads, self.attention_dropout, self.unmasked = heads, attention_dropout, unmasked
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: "LayerCache | None" = None) -> Tensor:
        q, k, v = rearrange(
            self.qkv(x), "b t (three heads d) -> three b heads t d", three=3, heads=self.heads
        )
        if cache is not None:
            k, v = cache.extend(k, v)
        new, before = q.shape[2], k.shape[2] - q.shape[2]
        dropped = self.attention_dropout if self.training else 0.0
        if new > 1 and (before or self.unmasked):
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=self._visible(before, new, x.device), dropout_p=dropped
            )
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=new > 1, dropout_p=dropped)
        return self.dropout(self.proj(rearrange(out, "b heads t d -> b t (heads d)")))

    def _visible(self, before: int, new: int, device: torch.device) -> Tensor:
        """(new, before + new) bool: who of the `new` tokens sees whom."""
        visible = torch.ones(new, before + new, dtype=torch.bool, device=device).tril(before)
        if not before:
            visible[: self.unmasked, : self.unmasked] = True
        return visible


class Block(nn.Module):
    """Pre-norm; x + attention, x + MLP."""

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        attention_dropout: float = 0.0,
        unmasked: int = 0,
    ):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, dropout, attention_dropout, unmasked)
        self.mlp = nn.Sequential(
            Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, cache: "LayerCache | None" = None) -> Tensor:
        x = x + self.attn(self.ln1(x), cache)
        return x + self.mlp(self.ln2(x))


class GPT(Prior):
    """Reads the condition's tokens, then the codes, by default in raster order.

    grid: height and width of the code grid trained on. parts: one mapping per part of the
    condition, {vocabulary: V, grid: [h, w]} for a raster aligned with the codes (a mask), else
    {vocabulary: V, length: M}. Condition and codes have tables of their own; each part has one id
    more, V, that says nothing (guidance). dropout: of embeddings and of the residual branches.
    order: see permuters.py.

    Positions are learned, one vector per place. Rasters start from one two-dimensional sine code,
    so that a code and the mask token that lies over it begin with like positions: from zeros, short
    trainings learn to ignore the mask.

    What the published models have otherwise: shared_vocabulary: condition and codes share one table
    of so many entries, which is also the number of logits (then there is no null condition).
    positions: length of the table of positions, if not that of condition and codes. unmasked: so
    many tokens of the condition see each other whatever their order.
    """

    def __init__(
        self,
        num_codes: int,
        grid: list[int],
        parts: list[dict],
        layers: int,
        heads: int,
        width: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        order: str = "raster",
        shared_vocabulary: int | None = None,
        positions: int | None = None,
        unmasked: int = 0,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by heads {heads}")
        self.num_codes, self.grid, self.width = num_codes, (int(grid[0]), int(grid[1])), width
        self.vocabularies = [part["vocabulary"] for part in parts]
        self.part_grids = [tuple(part["grid"]) if part.get("grid") else None for part in parts]
        self.lengths = [
            math.prod(part["grid"]) if part.get("grid") else part["length"] for part in parts
        ]
        self.tied = shared_vocabulary is not None
        self.offsets = [
            0 if self.tied else sum(v + 1 for v in self.vocabularies[:i]) for i in range(len(parts))
        ]
        if self.tied and max(num_codes, *self.vocabularies) > shared_vocabulary:
            raise ValueError(
                f"shared_vocabulary {shared_vocabulary} should hold the {num_codes} codes and"
                f" condition vocabularies {self.vocabularies}"
            )
        length = sum(self.lengths) + math.prod(self.grid)
        if positions is not None and positions < length - 1:  # the last code is never read
            raise ValueError(
                f"positions {positions} should be at least {length - 1}: the condition's"
                f" {sum(self.lengths)} and the grid's, but for its last code"
            )
        if unmasked > sum(self.lengths):
            raise ValueError(
                f"unmasked {unmasked} should not exceed the condition's {sum(self.lengths)} tokens:"
                " codes would see codes after them"
            )
        self.tok_emb = nn.Embedding(shared_vocabulary or num_codes, width)
        if not self.tied:
            self.cond_emb = nn.Embedding(sum(v + 1 for v in self.vocabularies), width)
        self.pos_emb = nn.Parameter(torch.zeros(1, positions or length, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, attention_dropout, unmasked) for _ in range(layers)
        )
        self.ln_f = nn.LayerNorm(width)
        self.head = Linear(width, shared_vocabulary or num_codes, bias=False)
        self.register_buffer(
            "permutation",
            None if order == "raster" else torch.tensor(permuters.order(order, self.grid)),
        )
        self.apply(_initialise)
        if not self.tied:
            with torch.no_grad():
                rasters = [
                    sine_code(g, width) if g else torch.zeros(n, width)
                    for g, n in zip(
                        [*self.part_grids, self.grid], [*self.lengths, math.prod(self.grid)]
                    )
                ]
                if self.permutation is not None:
                    rasters[-1] = rasters[-1][self.permutation]
                self.pos_emb[:, :length].copy_(torch.cat(rasters)[None])

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """As the seam says; with a shared vocabulary beyond the codes, logits of all of it."""
        prefix = self.embed_condition(condition)
        x = torch.cat([prefix, self.embed_codes(codes)[:, :-1]], dim=1)
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x[:, prefix.shape[1] - 1 :]))
        if self.permutation is not None:
            logits = torch.empty_like(logits).index_copy_(1, self.permutation, logits)
        return logits.unflatten(1, codes.shape[1:])

    def order(self, grid: tuple[int, int]) -> Tensor | None:
        if self.permutation is not None and grid != self.grid:
            raise UserError(
                f"a prior that reads codes in its own order knows {self.grid[0]}x{self.grid[1]} of"
                f" them only, not {grid[0]}x{grid[1]}"
            )
        return self.permutation

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> "CachedDecoder":
        return CachedDecoder(self, condition, grid)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Packed for the time of a sample, not longer: a training step would leave the other layout stale."""
        layers = [module for module in self.modules() if isinstance(module, Linear)]
        try:
            for layer in layers:
                layer.pack()
            yield
        finally:
            for layer in layers:
                layer.packed = None

    def embed_condition(self, condition: Condition) -> Tensor:
        """(B, M, width), positions included; a raster may be smaller than the trained one."""
        said = [(part.vocabulary, part.grid or part.tokens.shape[1]) for part in condition]
        known = list(
            zip(
                self.vocabularies,
                [grid or length for grid, length in zip(self.part_grids, self.lengths)],
            )
        )
        if len(said) != len(known) or not all(
            v == w and _within(a, b) for (v, a), (w, b) in zip(said, known)
        ):
            raise UserError(
                f"the condition has (vocabulary, length or grid) {said}, but this prior knows"
                f" {known}; was it trained with another conditioner?"
            )
        tokens = torch.cat(
            [part.tokens + offset for part, offset in zip(condition, self.offsets)], dim=1
        )
        rasters = self.pos_emb[:, : sum(self.lengths)].split(self.lengths, dim=1)
        positions = [
            _corner(raster, trained, part.grid) if trained else raster
            for raster, trained, part in zip(rasters, self.part_grids, condition)
        ]
        return (self.tok_emb if self.tied else self.cond_emb)(tokens) + torch.cat(positions, dim=1)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """(B, h w, width) in the order they are read, positions included; a smaller grid lies in
        the upper left corner of the trained one.
        """
        order = self.order(tuple(codes.shape[1:]))
        flat = codes.flatten(1)
        return self.tok_emb(flat if order is None else flat[:, order]) + self.code_positions(
            codes.shape[1:]
        )

    def code_positions(self, grid: tuple[int, int]) -> Tensor:
        if grid[0] > self.grid[0] or grid[1] > self.grid[1]:
            raise UserError(
                f"a grid of {grid[0]}x{grid[1]} codes is larger than the"
                f" {self.grid[0]}x{self.grid[1]} that this prior was trained on"
            )
        start, count = sum(self.lengths), math.prod(self.grid)
        positions = self.pos_emb[:, start : start + count]
        if positions.shape[1] < count:
            # The last code is never read, so published tables may leave its position out
            positions = F.pad(positions, (0, 0, 0, 1))
        return _corner(positions, self.grid, grid)


class LayerCache:
    """Keys and values of one layer, (B, heads, T, d), allocated once and filled from the left."""

    def __init__(self, shape: tuple[int, ...], like: Tensor):
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        self.filled = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.filled + k.shape[2]
        self.keys[:, :, self.filled : end], self.values[:, :, self.filled : end] = k, v
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class CachedDecoder:
    """Code after code; what was read once is kept as keys and values, and what waits to be read is
    read in one pass when logits are asked for.
    """

    def __init__(self, prior: GPT, condition: Condition, grid: tuple[int, int]):
        self.prior = prior
        self.positions = prior.code_positions(grid)
        self.waiting = [prior.embed_condition(condition)]
        count, length, width = self.waiting[0].shape
        heads = prior.blocks[0].attn.heads
        shape = (count, heads, length + math.prod(grid), width // heads)
        self.caches = [LayerCache(shape, self.waiting[0]) for _ in prior.blocks]
        self.position = 0

    @torch.no_grad()
    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        if self.waiting:
            x = torch.cat(self.waiting, dim=1)
            self.waiting = []
            for block, cache in zip(self.prior.blocks, self.caches):
                x = block(x, cache)
            known = self.prior.num_codes  # what is in the vocabulary, but no code, can't come next
            self.next = self.prior.head(self.prior.ln_f(x[:, -1]))[:, :known]
        return self.next

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        until = self.position + codes.shape[1]
        self.waiting.append(self.prior.tok_emb(codes) + self.positions[:, self.position : until])
        self.position = until


def sine_code(grid: tuple[int, int], width: int, scale: float = 0.03) -> Tensor:
    """(h w, width): sines and cosines of row and column, both measured from 0 to 1, so that rasters
    of different fineness over the same picture agree.
    """
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


def _corner(raster: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The upper left part of positions (1, h w, width)."""
    return raster.unflatten(1, trained)[:, : grid[0], : grid[1]].flatten(1, 2)


def _within(said, known) -> bool:
    """Equal lengths, or a grid that is no larger."""
    if isinstance(said, int) or isinstance(known, int):
        return said == known
    return said[0] <= known[0] and said[1] <= known[1]


def _initialise(layer: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zero biases, as GPT-2."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
