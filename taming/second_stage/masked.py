"""A prior that predicts hidden codes from those that are seen, wherever they lie, many at a time
(MaskGIT: Chang et al. 2022, arXiv 2202.04200; in Halton order: Besnier et al. 2025, arXiv
2503.17076).
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config.ranges import Count, Decay
from taming.errors import UserError
from taming.second_stage.block import MODERN, Block, BlockOptions, BlockParameters, places_of
from taming.second_stage.condition_map import AddedCondition
from taming.second_stage.gpt import sine_code
from taming.second_stage.interface import (
    Condition,
    Decoder,
    Depth,
    Grid,
    NumCodes,
    Parts,
    Width,
    check_codes,
)
from taming.second_stage.transformer import Transformer, corner


class MaskedPrior(Transformer):
    """All codes see each other; hidden ones are a token of their own. The condition is added at
    each position.

    A sample takes a few passes, each of which draws some of the codes that are still hidden, few at
    first, by the cosine rule. In Halton order the places of each pass are fixed and spread evenly,
    so a sample has a probability, exactly: the product over the passes of what each gave to its
    codes (`log_prob`). In order of confidence the surest codes of a pass stay, and there is none.

    Args:
        layers: blocks of attention and MLP.
        heads: of each attention; they divide the width.
        width: of the vectors at each place.
        dropout: of embeddings and of the residual branches.
        block: {norm, mlp, qk_norm, rotary, zero_init, ...}, see block.BlockOptions; default: rms,
            relu2, the rest true, without biases.
        steps: passes of a sample, where nothing else is said.
        unmasking: in which order codes are drawn.
        num_codes: K, of the level that it is the prior of.
        grid: height and width of the code grid trained on; larger ones are drawn in windows of it.
        parts: the shape of the condition, {vocabulary: V, grid: [h, w], features: n} for a raster,
            else {vocabulary: V, length: M}.
    """

    alike = True

    def __init__(
        self,
        layers: Depth,
        heads: Depth,
        width: Width,
        dropout: Decay = 0.0,
        block: BlockParameters = None,
        steps: Count = 8,
        unmasking: Literal["halton", "confidence"] = "halton",
        *,
        num_codes: NumCodes | None = None,
        grid: Grid | None = None,
        parts: Parts | None = None,
    ):
        super().__init__()
        options = MODERN if block is None else BlockOptions.of(block)
        self.set_widths(layers, heads, width, dropout, options)
        self.steps, self.unmasking = steps, unmasking
        self.set_shape(num_codes, grid, parts)

    def build(self) -> None:
        self.tok_emb = nn.Embedding(self.num_codes + 1, self.width)  # the last one hides a code
        self.pos_emb = nn.Parameter(sine_code(self.grid, self.width)[None])
        self.added = AddedCondition(self.parts, self.width, self.layers, blocks=1)
        self.build_network(self.num_codes)
        self.start_from_zero()

    def make_block(self) -> Block:
        options = self.block_options
        return Block(self.width, self.heads, self.dropout, options, causal=False)

    def features(self, codes: Tensor, hidden: Tensor, added: list[Tensor]) -> Tensor:
        """(B, h w, width), from which the head makes logits.

        Args:
            codes: (B, h, w); what is hidden does not count.
            hidden: bool (B, h, w).
            added: of the condition, (B, width, h, w), see `AddedCondition`.
        """
        grid = (codes.shape[1], codes.shape[2])
        tokens = self.tok_emb(codes.masked_fill(hidden, self.num_codes).flatten(1))
        x = self.drop(tokens + self.positions(grid))
        rotation = None
        if self.block_options.rotary:
            rotation = self.turned(places_of(grid).to(x.device))
        levels = [level.flatten(2).mT for level in added]
        return self.ln_f(self.run_blocks(x, levels, rotation))

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, h w, width) of a grid that is no larger than the trained one."""
        self.check_grid(grid)
        return corner(self.pos_emb, self.grid, grid)

    def hidden_logits(self, codes: Tensor, hidden: Tensor, condition: Condition) -> Tensor:
        """Logits (n, K) of the n hidden codes of all pictures, in raster order."""
        added = self.added(condition, (codes.shape[1], codes.shape[2]))
        return self.head(self.features(codes, hidden, added)[hidden.flatten(1)])

    # As a prior with a chain of passes

    def order(self, grid: tuple[int, int]) -> Tensor:
        """In which codes are drawn one by one; a pass draws the next few of them together."""
        return torch.tensor(halton_order(*grid), device=self.pos_emb.device)

    def passes(self, grid: tuple[int, int], steps: int | None = None) -> Tensor:
        """(h, w): the number of the pass, from 0, in which the code at each place is drawn."""
        steps = check_steps(steps or self.steps, grid)
        numbers = torch.empty(math.prod(grid), dtype=torch.int64, device=self.pos_emb.device)
        ends = [grid[0] * grid[1] - count for count in remaining(grid[0] * grid[1], steps)]
        counts = torch.tensor([end - start for start, end in zip([0, *ends], ends)])
        numbers[self.order(grid)] = torch.repeat_interleave(torch.arange(steps), counts).to(numbers)
        return numbers.view(grid)

    def forward(self, codes: Tensor, condition: Condition, steps: int | None = None) -> Tensor:
        """As the seam says, in the order of passes: logits see the codes of earlier passes only."""
        grid = (codes.shape[1], codes.shape[2])
        passes = self.passes(grid, steps)
        added = self.added(condition, grid)
        logits = added[0].new_empty(*codes.shape, self.num_codes)
        for number in range(int(passes.max()) + 1):
            x = self.features(codes, (passes >= number).expand_as(codes), added)
            logits[:, passes == number] = self.head(x[:, (passes == number).flatten()]).to(logits)
        return logits

    def loss(self, noisy: Tensor, codes: Tensor, condition: Condition) -> Tensor:
        """Cross-entropy of the hidden codes in nats per code; how many are hidden, by the cosine
        rule of a uniformly random moment, and which, uniformly, is drawn for each picture.
        """
        shares = torch.cos(math.pi / 2 * torch.rand(len(codes), device=codes.device))
        hidden = random_subset(shares, codes)
        logits = self.hidden_logits(noisy, hidden, condition)
        return F.cross_entropy(logits.float(), codes[hidden])

    @torch.no_grad()
    def bound(self, codes: Tensor, condition: Condition, draws: int = 8) -> Tensor:
        """An upper bound (B,) in nats on -log p of a sampler that draws codes one by one in random
        order, estimated from `draws` random masks: the mean over orders of -log p is the code count
        times the mean cross-entropy of hidden codes, over uniform numbers of hidden codes.
        """
        codes = check_codes(codes, self.num_codes, condition)
        total, count = torch.zeros(len(codes), device=codes.device), codes[0].numel()
        for _ in range(draws):
            numbers = torch.randint(1, count + 1, (len(codes),), device=codes.device)
            hidden = random_subset(numbers / count, codes)
            logits = self.hidden_logits(codes, hidden, condition).float()
            losses = torch.zeros(codes.shape, device=codes.device)
            losses[hidden] = F.cross_entropy(logits, codes[hidden], reduction="none")
            total += losses.flatten(1).sum(1) * count / hidden.flatten(1).sum(1)
        return total / draws

    def decoder(self, condition: Condition, grid: tuple[int, int]) -> Decoder:
        return ChainDecoder(self, condition, grid)


class ChainDecoder:
    """Code after code in the prior's order; what a pass draws together is computed together."""

    def __init__(self, prior: MaskedPrior, condition: Condition, grid: tuple[int, int]):
        self.prior, self.order = prior, prior.order(grid)
        self.passes = prior.passes(grid)
        self.added = prior.added(condition, grid)
        tokens = condition[0].tokens
        self.codes = torch.zeros((len(tokens), *grid), dtype=torch.int64, device=tokens.device)
        self.position, self.number = 0, -1

    @torch.no_grad()
    def logits(self) -> Tensor:
        """(B, K) of the next code."""
        place = self.order[self.position]
        number = int(self.passes.flatten()[place])
        if number != self.number:
            hidden = (self.passes >= number).expand_as(self.codes)
            self.features = self.prior.features(self.codes, hidden, self.added)
            self.number = number
        return self.prior.head(self.features[:, place])

    def extend(self, codes: Tensor) -> None:
        """codes (B, n): the next n codes are these."""
        until = self.position + codes.shape[1]
        self.codes.flatten(1)[:, self.order[self.position : until]] = codes
        self.position = until


def check_steps(steps: int, grid: tuple[int, int]) -> int:
    """Raises UserError for a number of passes that is none, or above the number of codes."""
    if not 1 <= steps <= grid[0] * grid[1]:
        raise UserError(
            f"steps {steps} should be from 1 to {grid[0] * grid[1]}, the codes of a grid of"
            f" {grid[0]}x{grid[1]}"
        )
    return steps


def remaining(count: int, steps: int) -> list[int]:
    """How many of so many codes are hidden after each pass, by the cosine rule; each pass draws at
    least one.
    """
    numbers = []
    for step in range(1, steps + 1):
        number = round(count * math.cos(math.pi / 2 * step / steps))
        before = numbers[-1] if numbers else count
        numbers.append(max(steps - step, min(number, before - 1)))
    return numbers


def random_subset(shares: Tensor, codes: Tensor) -> Tensor:
    """bool, like codes (B, h, w): of each picture a random subset of this share, at least one."""
    places = codes[0].numel()
    counts = (shares * places).round().clamp(1, places)
    ranks = torch.rand(len(codes), places, device=codes.device).argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]).view(codes.shape)


@lru_cache(maxsize=64)
def halton_order(height: int, width: int) -> list[int]:
    """The places of a raster in the order in which the Halton sequence (bases 2 and 3) meets them:
    every beginning of it is spread evenly.
    """
    order, seen = [], np.zeros(height * width, dtype=bool)
    start, count = 1, 4 * height * width
    while len(order) < height * width:
        numbers = np.arange(start, start + count)
        rows = (radical_inverse(numbers, 2) * height).astype(int)
        columns = (radical_inverse(numbers, 3) * width).astype(int)
        places = rows * width + columns
        _, first = np.unique(places, return_index=True)
        places = places[np.sort(first)]
        places = places[~seen[places]]
        order += places.tolist()
        seen[places] = True
        start += count
    return order


def radical_inverse(numbers: np.ndarray, base: int) -> np.ndarray:
    """Digits of whole numbers mirrored at the point: in base 2, 6 = 110 becomes 0.011."""
    result, scale, rest = np.zeros(len(numbers)), 1.0, numbers.copy()
    while rest.any():
        scale /= base
        result += scale * (rest % base)
        rest //= base
    return result
